"""Parts of the dimensions of pooled features: the controls that a Matryoshka level of the same width has to beat."""

from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor

MAX_ROWS = 1 << 16
"""Rows that principal components are computed from, at most: 768 MiB at 3,072 float32 dimensions."""
OVERSAMPLING = 16
"""Components computed beyond those used, for the accuracy of the randomized decomposition."""


class Control(NamedTuple):
    """Some of the dimensions of features, or of their principal components.

    Attributes:
        kind: Random dimensions, or the first principal components.
        width: Number of dimensions.
        take: Maps features (N, D) float32 to these dimensions (N, width) float32.
    """

    kind: Literal["random_dims", "components"]
    width: int
    take: Callable[[Tensor], Tensor]


def sample(train: Tensor) -> Tensor:
    """Return at most about `MAX_ROWS` evenly spaced rows of features (N, D) float32."""
    return train[:: max(1, -(-len(train) // MAX_ROWS))]


def controls(train: Tensor, widths: tuple[int, ...], seed: int) -> list[Control]:
    """Return random dimensions and the first principal components for each width up to D.

    Args:
        train: (N, D) float32, features that the components are computed from, on the device that they are used on.
        widths: Numbers of dimensions; those above D are ignored.
        seed: Seed of the random dimensions and of the randomized decomposition.
    """
    widths = tuple(width for width in widths if width <= train.shape[1])
    if not widths:
        return []
    # The draws must not depend on what ran before, so that a model measured alone gets the same dimensions.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        order = torch.randperm(train.shape[1]).to(train.device)
        mean = train.mean(dim=0)
        rank = min(max(widths) + OVERSAMPLING, *train.shape)
        # On the CPU, since svd_lowrank draws its random projection on the device: a GPU would draw another one.
        axes = torch.svd_lowrank((train - mean).cpu(), q=rank, niter=4)[2].to(train.device)

    def random_dims(features: Tensor, width: int) -> Tensor:
        return features[:, order[:width]]

    def components(features: Tensor, width: int) -> Tensor:
        return (features.float() - mean) @ axes[:, :width]

    return [
        control
        for width in widths
        for control in (
            Control("random_dims", width, partial(random_dims, width=width)),
            Control("components", width, partial(components, width=width)),
        )
    ]
