"""Patch features as colors, and figures written so that the same content gives the same bytes."""

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
    """Three principal components of features as red, green and blue.

    Maps can be compared if they are colored by the same components.

    Attributes:
        center: (D,) float64, mean of the fitted features.
        axes: (D, 3) float64, components.
        low: (3,) float64, coordinates that become 0.
        high: (3,) float64, coordinates that become 1.
    """

    center: Tensor
    axes: Tensor
    low: Tensor
    high: Tensor

    @classmethod
    def fit(cls, tokens: Tensor) -> Self:
        """Fit to features (N, D); colors span the 1st to the 99th percentile of each component."""
        tokens = tokens.double()
        center = tokens.mean(0)
        axes = torch.linalg.eigh((tokens - center).T @ (tokens - center))[1].flip(1)[:, :3]
        # The sign of an eigenvector is arbitrary: make its largest entry positive, so that colors do not flip between
        # machines.
        axes = axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()
        low, high = ((tokens - center) @ axes).quantile(tokens.new_tensor([0.01, 0.99]), dim=0)
        return cls(center, axes, low, high)

    def __call__(self, features: Tensor) -> NDArray[np.float64]:
        """Return the colors (h, w, 3) in 0..1 of a feature map (h, w, D)."""
        colors = ((features.double() - self.center) @ self.axes - self.low) / (self.high - self.low).clamp_min(1e-12)
        return colors.clamp(0, 1).cpu().numpy()


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG with 150 pixels per inch."""
    buffer = io.BytesIO()
    # Without the name of the software, whose version would change the bytes.
    figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    write_bytes(path, buffer.getvalue())
