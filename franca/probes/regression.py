"""Linear maps fitted on frozen features: logistic regression and ridge regression.

Features are standardized before fitting; the returned maps apply to the original features.
"""

from typing import NamedTuple

import torch
from torch import Tensor

ITERATIONS = 50
MAX_WHITENED = 1024
"""Dimensions up to which the solver works in the principal axes of the features."""
RIDGE = 1e-3
"""Strength of ridge regression, relative to the variance of the standardized features."""


class LinearMap(NamedTuple):
    """A linear map of features (..., D) to (..., K).

    Attributes:
        weight: (K, D) float32.
        bias: (K,) float32.
    """

    weight: Tensor
    bias: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """Return the map of features (..., D) as (..., K)."""
        return torch.nn.functional.linear(features, self.weight, self.bias)


def fit_logistic(features: Tensor, targets: Tensor, strengths: list[float]) -> list[LinearMap]:
    """Fit multinomial logistic regression by L-BFGS, once for each inverse regularization strength C.

    Minimizes cross-entropy + |W|² / (2 C N) over standardized features. Each fit starts from that of the next smaller
    C. The solver works in the principal axes of the features, scaled to equal variance: the objective is the same and
    converges several times faster.

    Args:
        features: (N, D) float32.
        targets: (N, K) float32, shares of the classes; the sum of a row is its weight.
        strengths: Values of C.

    Returns:
        a map to logits (..., K) for each of `strengths`, in their order.
    """
    x, mean, std = _standardize(features)
    axes, penalty = _principal_axes(x)
    x = x @ axes if axes is not None else x
    weight = x.new_zeros(targets.shape[1], x.shape[1])
    bias = x.new_zeros(targets.shape[1])
    fitted = {}
    for strength in sorted(strengths):
        weight, bias = _lbfgs(x, targets, penalty / (2 * strength * len(x)), weight, bias)
        fitted[strength] = _unstandardize(weight @ axes.T if axes is not None else weight, bias, mean, std)
    return [fitted[strength] for strength in strengths]


def fit_ridge(features: Tensor, targets: Tensor) -> LinearMap:
    """Fit targets (N, K) to features (N, D) by ridge regression of strength `RIDGE`, in float64."""
    x, mean, std = _standardize(features.double())
    center = targets.double().mean(0)
    gram = x.T @ x / len(x) + RIDGE * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    weight = torch.linalg.solve(gram, x.T @ (targets.double() - center) / len(x)).T
    return LinearMap(*(part.float() for part in _unstandardize(weight, center, mean, std)))


def _standardize(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return standardized features (N, D), mean (D,) and standard deviation (D,), 1 for constant features."""
    mean, std = features.mean(0), features.std(0, unbiased=False)
    std = torch.where(std > 1e-6, std, 1.0)
    return (features - mean) / std, mean, std


def _unstandardize(weight: Tensor, bias: Tensor, mean: Tensor, std: Tensor) -> LinearMap:
    """Return the map of the original features that equals this one of standardized features."""
    weight = weight / std
    return LinearMap(weight, bias - weight @ mean)


def _principal_axes(x: Tensor) -> tuple[Tensor | None, Tensor]:
    """Return axes (D, D) such that weights are learned on x @ axes, and the penalty (D,) per squared weight there.

    Axes are None if x has more than `MAX_WHITENED` dimensions: computing them would cost more than it saves.
    """
    width = x.shape[1]
    if width > MAX_WHITENED:
        return None, x.new_ones(width)
    values, vectors = torch.linalg.eigh((x.T @ x / len(x)).double())
    # 1e-3 keeps axes with next to no variance from being scaled up without limit.
    scale = (values.clamp_min(0) + 1e-3).rsqrt()
    return (vectors * scale).to(x.dtype), scale.square().to(x.dtype)


def _lbfgs(x: Tensor, targets: Tensor, penalty: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Return weight (K, D) and bias (K,) after at most `ITERATIONS` iterations from the given ones."""
    weight, bias = (start.clone().requires_grad_() for start in (weight, bias))
    optimizer = torch.optim.LBFGS(
        [weight, bias],
        max_iter=ITERATIONS,
        tolerance_grad=1e-5,
        tolerance_change=1e-7,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        # Not x @ weight.T: with few classes it takes several times longer on a CPU.
        logits = (weight @ x.T).T + bias
        value = -(targets * logits.log_softmax(1)).sum() / len(x) + (penalty * weight.square()).sum()
        value.backward()
        return value

    optimizer.step(loss)
    return weight.detach(), bias.detach()
