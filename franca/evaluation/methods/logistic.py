"""Multinomial logistic regression on features that may be larger than memory, by L-BFGS on sums over blocks.

Features are standardized; the returned maps apply to the original features.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from franca.feature_files import blocks
from franca.probes.regression import LinearMap

ITERATIONS = 50
MAX_WHITENED = 1024
"""Dimensions up to which the solver works in the principal axes of the features."""
MIN_STD = 1e-6
"""Standard deviation below which a feature counts as constant and is not divided by it."""


def fit_logistic(features: Tensor, targets: Tensor, classes: int, strengths: list[float]) -> list[LinearMap]:
    """Fit multinomial logistic regression by L-BFGS, once for each inverse regularization strength C.

    Minimizes cross-entropy + |W|² / (2 C N) over standardized features. Each fit starts from that of the next smaller
    C. The solver works in the principal axes of the features, scaled to equal variance: the objective is the same and
    converges several times faster.

    Args:
        features: (N, D) float32, on any device.
        targets: (N,) int64, the classes, or (N, K) float32, shares of the classes, of which the sum of a row is its
            weight; on the device that computes.
        classes: Number of classes K.
        strengths: Values of C.

    Returns:
        a map to logits (..., K) for each of `strengths`, in their order.
    """
    axes = principal_axes(features, targets.device)
    weight = axes.mean.new_zeros(classes, len(axes.to_standard))
    bias = axes.mean.new_zeros(classes)
    fitted = {}
    for strength in sorted(strengths):
        penalty = axes.penalty / (2 * strength * len(features))
        weight, bias = _lbfgs(features, targets, axes, penalty, weight, bias)
        original = axes.unfold(weight)
        fitted[strength] = LinearMap(original, bias - original @ axes.mean)
    return [fitted[strength] for strength in strengths]


def predict_classes(probe: LinearMap, features: Tensor) -> Tensor:
    """Return the most likely class of each of the features (N, D), (N,) int64 on the device of the map."""
    return torch.cat([probe(part).argmax(dim=1) for part in blocks(features, probe.weight.device)])


class Axes(NamedTuple):
    """Coordinates in which weights are learned: u = (x - mean) / std @ to_standard.

    Attributes:
        mean: (D,) float32.
        std: (D,) float32, 1 for constant features.
        to_standard: (D, D) float32.
        penalty: (D,) float32, per squared weight in these coordinates.
    """

    mean: Tensor
    std: Tensor
    to_standard: Tensor
    penalty: Tensor

    def unfold(self, weight: Tensor) -> Tensor:
        """Return the weight (K, D) on x - mean that equals this one on u."""
        return (weight @ self.to_standard.T) / self.std


def principal_axes(features: Tensor, device: torch.device) -> Axes:
    """Return the principal axes of features, or just standardized ones above `MAX_WHITENED` dimensions.

    There, computing the axes would cost more than it saves.
    """
    count, width = features.shape
    total = torch.zeros(width, dtype=torch.float64, device=device)
    for part in blocks(features, device):
        total += part.sum(dim=0, dtype=torch.float64)
    mean = (total / count).float()
    whiten = width <= MAX_WHITENED
    # Of centered features in a second pass: the Gram matrix of features far from the origin would lose their variance.
    gram = torch.zeros(width, width if whiten else 1, dtype=torch.float64, device=device)
    for part in blocks(features, device):
        part = part - mean
        gram += part.T @ part if whiten else part.square().sum(dim=0)[:, None]
    variance = (gram.diagonal() if whiten else gram[:, 0]) / count
    std = variance.sqrt()
    std = torch.where(std > MIN_STD, std, 1.0)
    if not whiten:
        return Axes(mean, std.float(), torch.eye(width, device=device), torch.ones(width, device=device))
    values, vectors = torch.linalg.eigh(gram / count / std / std[:, None])
    # 1e-3 keeps axes with next to no variance from being scaled up without limit.
    scale = (values.clamp_min(0) + 1e-3).rsqrt()
    return Axes(mean, std.float(), (vectors * scale).float(), scale.square().float())


def _lbfgs(
    features: Tensor, targets: Tensor, axes: Axes, penalty: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor]:
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
        with torch.no_grad():
            value, slope, shift = cross_entropy(features, targets, axes.mean, axes.unfold(weight), bias)
            weight.grad = slope / axes.std @ axes.to_standard + 2 * penalty * weight
            bias.grad = shift
            return value + (penalty * weight.square()).sum()

    optimizer.step(loss)
    return weight.detach(), bias.detach()


def cross_entropy(
    features: Tensor, targets: Tensor, mean: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the mean cross-entropy of logits (x - mean) W^T + b, and its gradients for W (K, D) and b (K,)."""
    value, slope, shift = bias.new_zeros(()), torch.zeros_like(weight), torch.zeros_like(bias)
    for part, wanted in _pairs(features, targets):
        x = part - mean
        # Not x @ weight.T: with few classes it takes several times longer on a CPU.
        logits = (weight @ x.T).T + bias
        log_chances = logits.log_softmax(dim=1)
        if wanted.ndim == 1:
            value -= log_chances.gather(1, wanted[:, None]).sum()
            error = log_chances.exp_()
            error[torch.arange(len(wanted), device=wanted.device), wanted] -= 1
        else:
            value -= (wanted * log_chances).sum()
            error = log_chances.exp_() * wanted.sum(dim=1, keepdim=True) - wanted
        slope += error.T @ x
        shift += error.sum(dim=0)
    count = len(features)
    return value / count, slope / count, shift / count


def _pairs(features: Tensor, targets: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield blocks of features and their targets."""
    start = 0
    for part in blocks(features, targets.device):
        yield part, targets[start : start + len(part)]
        start += len(part)
