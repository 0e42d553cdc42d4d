"""Cross-entropy of a student's tokens with given assignments, in chunks: the logits are never in memory as a whole."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from franca.losses.chunks import chunks, logsumexp_

Targets = Callable[[slice], Tensor]
"""Function that maps a slice of the student's rows to their targets, (n, K) float32, all above 0."""


class RowStatistics(NamedTuple):
    """Statistics of each row for logging, (N,), without gradients."""

    cross_entropy: Tensor
    """-sum_k t_k log softmax(s)_k in nats, float32, not weighted"""
    entropy: Tensor
    """-sum_k t_k log t_k in nats, float32"""
    favorite: Tensor
    """int64: the prototype with the largest target"""


class _PrototypeCrossEntropy(torch.autograd.Function):
    """L = sum_n v_n sum_k -t_nk log softmax(h_n w^T)_k, with gradients that are computed in the forward pass.

    With s = h w^T, p = softmax(s) and m_n = sum_k t_nk:

        L       = sum_n v_n (m_n logsumexp_k s_nk - sum_k t_nk s_nk)
        dL/ds   = v_n (m_n p_nk - t_nk) =: d_nk
        dL/dh   = d w,    dL/dw = d^T h

    d of a chunk of rows is formed while its logits are in memory, multiplied into dL/dh (N, b) and dL/dw (K, b), and
    released. The peak is one chunk of rows x K and these two, and no logit is computed twice; autograd on the textbook
    form keeps several N x K. The backward pass multiplies by the gradient of L.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, prototypes: Tensor, weights: Tensor, targets: Targets, product_dtype: torch.dtype
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        # Without gradients the two products of each chunk are skipped.
        needs_gradients = any(ctx.needs_input_grad)
        by_hidden = torch.empty_like(hidden)
        by_prototypes = torch.zeros_like(prototypes)
        low_prototypes = prototypes.to(product_dtype)
        cross_entropy, entropy = hidden.new_empty(len(hidden)), hidden.new_empty(len(hidden))
        favorite = torch.empty(len(hidden), dtype=torch.int64, device=hidden.device)
        rows = _rows_on_gpu if hidden.is_cuda else _rows_on_cpu
        for part in chunks(len(hidden), prototypes):
            # Targets are computed for the chunk as well, if the assignments' rows are not kept.
            logits, target = hidden[part] @ prototypes.T, targets(part)
            cross_entropy[part], entropy[part], favorite[part], slope = rows(
                logits, target, weights[part], product_dtype, needs_gradients
            )
            if needs_gradients:
                # In bfloat16 if the head ran under autocast: assignments, loss and gradients of a level of 3,072 x
                # 131,072 then take 18.2 ms on an H100, 25.5 ms in float32 (benchmarks/GPU.md).
                by_hidden[part] = slope @ low_prototypes
                _add_product(by_prototypes, slope.T, hidden[part].to(product_dtype))
        # No logits are saved: (N + K) b numbers instead of N K.
        ctx.save_for_backward(by_hidden, by_prototypes)
        ctx.mark_non_differentiable(cross_entropy, entropy, favorite)
        return torch.dot(weights, cross_entropy), cross_entropy, entropy, favorite

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_loss: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        by_hidden, by_prototypes = ctx.saved_tensors
        return by_hidden * by_loss, by_prototypes * by_loss, None, None, None


def _rows_on_gpu(
    logits: Tensor, targets: Tensor, weights: Tensor, slope_dtype: torch.dtype, needs_gradients: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return each row's cross-entropy, target entropy and favorite (n,), and d (n, K)."""
    from franca.losses import kernels  # needs Triton, which PyTorch has on Linux only

    found: tuple[Tensor, Tensor, Tensor, Tensor] = kernels.cross_entropy(
        logits, targets, weights, slope_dtype, needs_gradients
    )
    return found


def _rows_on_cpu(
    logits: Tensor, targets: Tensor, weights: Tensor, slope_dtype: torch.dtype, needs_gradients: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the same as `_rows_on_gpu`; overwrites the logits."""
    # The mass of a row is 1, or 2 for a local crop, whose target is the sum of two assignments.
    mass, agreement = targets.sum(dim=1), _dot(targets, logits)
    total = logsumexp_(logits)
    cross_entropy, entropy = mass * total - agreement, -_dot(targets, targets.log())
    favorite = targets.argmax(dim=1)
    if not needs_gradients:
        return cross_entropy, entropy, favorite, logits
    # m v softmax(s) - v t, in the memory of exp(s - max), which logsumexp_ left in the logits.
    slope = logits.mul_((mass * weights / logits.sum(dim=1))[:, None])
    slope = slope.addcmul_(targets, weights[:, None], value=-1).to(slope_dtype)
    return cross_entropy, entropy, favorite, slope


def _add_product(total: Tensor, x: Tensor, y: Tensor) -> None:
    """Add x y to `total`, summed in the dtype of `total`."""
    if x.dtype == total.dtype:
        total.addmm_(x, y)  # needs no memory for the product
    elif x.is_cuda:
        # float32 sums of bfloat16 products, which only CUDA has; `x @ y` rounds each chunk's sum to bfloat16.
        total += torch.mm(x, y, out_dtype=total.dtype)
    else:
        total += x @ y


def _dot(x: Tensor, y: Tensor) -> Tensor:
    """Return the dot products of corresponding rows of x and y (n, K), (n,), without x * y in memory."""
    return torch.bmm(x[:, None], y[:, :, None])[:, 0, 0]


def prototype_cross_entropy(
    hidden: Tensor, prototypes: Tensor, targets: Targets, weights: Tensor, temperature: float
) -> tuple[Tensor, RowStatistics]:
    """Return the weighted cross-entropy of the logits h w^T / temperature with their targets.

    Call this outside autocast: the logits are float32. The two products of the backward pass have the dtype of
    `hidden`, bfloat16 if the head ran under autocast.

    Args:
        hidden: h (N, b), float32 or bfloat16.
        prototypes: w (K, b).
        targets: Returns the targets of a slice of rows.
        weights: v (N,) float32, at least 0.
        temperature: Temperature of the student.

    Returns:
        sum_n v_n CE_n, () float32, and statistics of the N rows.
    """
    scaled, low = hidden.float() / temperature, hidden.dtype
    loss, *rows = _PrototypeCrossEntropy.apply(scaled, prototypes.float(), weights, targets, low)
    return loss, RowStatistics(*rows)
