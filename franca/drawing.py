"""What pictures have in common: features as colors, and figures as files of the same bytes for the same content."""

import io
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from franca.files import write_bytes


class PrincipalColors(NamedTuple):
    """Three principal components of features as red, green and blue; maps colored by the same ones compare."""

    center: Tensor
    axes: Tensor
    low: Tensor
    high: Tensor

    @classmethod
    def fit(cls, tokens: Tensor) -> Self:
        """Components of tokens (N, D); colors span the 1st to the 99th percentile of each."""
        tokens = tokens.double()
        center = tokens.mean(0)
        axes = torch.linalg.eigh((tokens - center).T @ (tokens - center))[1].flip(1)[:, :3]
        # An eigenvector's sign is free: let its largest entry be positive, so that colors do not flip.
        axes = axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()
        low, high = ((tokens - center) @ axes).quantile(tokens.new_tensor([0.01, 0.99]), dim=0)
        return cls(center, axes, low, high)

    def __call__(self, features: Tensor) -> NDArray[np.float64]:
        """(h, w, 3) in [0, 1] of a feature map (h, w, D)."""
        colors = ((features.double() - self.center) @ self.axes - self.low) / (self.high - self.low).clamp_min(1e-12)
        return colors.clamp(0, 1).cpu().numpy()


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG of 150 pixels an inch."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    write_bytes(path, buffer.getvalue())
