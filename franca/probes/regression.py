"""Linear maps fitted on frozen features. Features are standardized inside, and the maps take them as they are."""

from typing import NamedTuple

import torch
from torch import Tensor

ITERATIONS = 50
WIDEST_WHITENED = 1024
RIDGE = 1e-3


class LinearMap(NamedTuple):
    """features (…, D) -> (…, K), with `weight` (K, D) and `bias` (K,)."""

    weight: Tensor
    bias: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        return torch.nn.functional.linear(features, self.weight, self.bias)


def fit_logistic(features: Tensor, targets: Tensor, strengths: list[float]) -> list[LinearMap]:
    """Multinomial logistic regression, once for each inverse regularization strength C, by L-BFGS.

    Minimizes cross-entropy + |W|^2 / (2 C N) over standardized features; each fit starts from the one of the next
    smaller C. The objective is solved in the principal axes of the features, scaled to equal spread: it stays the
    same and converges several times faster.

    Args:
        features: (N, D).
        targets: (N, K), shares of the classes; a row's sum is its weight.

    Returns:
        a map to logits for each of `strengths`, in their order.
    """
    x, mean, std = _standardize(features)
    axes, penalty = _principal_axes(x)
    x = x @ axes if axes is not None else x
    weight = x.new_zeros(targets.shape[1], x.shape[1])
    bias = x.new_zeros(targets.shape[1])
    fitted = {}
    for strength in sorted(strengths):
        weight, bias = _lbfgs(x, targets, penalty / (2 * strength * len(x)), weight, bias)
        fitted[strength] = _unstandardized(weight @ axes.T if axes is not None else weight, bias, mean, std)
    return [fitted[strength] for strength in strengths]


def fit_ridge(features: Tensor, targets: Tensor) -> LinearMap:
    """Least squares of targets (N, K) on features (N, D), with a ridge of `RIDGE` times the features' spread."""
    x, mean, std = _standardize(features.double())
    center = targets.double().mean(0)
    gram = x.T @ x / len(x) + RIDGE * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    weight = torch.linalg.solve(gram, x.T @ (targets.double() - center) / len(x)).T
    return LinearMap(*(part.float() for part in _unstandardized(weight, center, mean, std)))


def _standardize(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Standardized features, mean (D,) and spread (D,), which is 1 for constants."""
    mean, std = features.mean(0), features.std(0, unbiased=False)
    std = torch.where(std > 1e-6, std, 1.0)
    return (features - mean) / std, mean, std


def _unstandardized(weight: Tensor, bias: Tensor, mean: Tensor, std: Tensor) -> LinearMap:
    weight = weight / std
    return LinearMap(weight, bias - weight @ mean)


def _principal_axes(x: Tensor) -> tuple[Tensor | None, Tensor]:
    """Axes (D, D) for weights on x @ axes, and the price (D,) of a squared weight there.

    Very wide features stay as they are: their axes cost more than they save.
    """
    width = x.shape[1]
    if width > WIDEST_WHITENED:
        return None, x.new_ones(width)
    values, vectors = torch.linalg.eigh((x.T @ x / len(x)).double())
    scale = (values.clamp_min(0) + 1e-3).rsqrt()
    return (vectors * scale).to(x.dtype), scale.square().to(x.dtype)


def _lbfgs(x: Tensor, targets: Tensor, penalty: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
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
        # Transposed on purpose: with so few classes, x @ weight.T takes several times longer on a CPU.
        logits = (weight @ x.T).T + bias
        value = -(targets * logits.log_softmax(1)).sum() / len(x) + (penalty * weight.square()).sum()
        value.backward()
        return value

    optimizer.step(loss)
    return weight.detach(), bias.detach()
