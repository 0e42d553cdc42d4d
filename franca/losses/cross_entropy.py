"""Cross-entropy of a student's tokens with given assignments, in chunks: logits are never all in memory."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from franca.losses.chunks import chunks, logsumexp_

Targets = Callable[[slice], Tensor]
"""Maps a slice of the student's rows to their targets, float32 (n, K), all above 0."""


class RowStatistics(NamedTuple):
    """What a row's targets and loss say, without gradients; tensors of (N,)."""

    cross_entropy: Tensor
    """-sum_k t_k log softmax(s)_k, not weighted"""
    entropy: Tensor
    """-sum_k t_k log t_k"""
    favorite: Tensor
    """int64: the prototype with the largest target"""


class _PrototypeCrossEntropy(torch.autograd.Function):
    """L = sum_n v_n sum_k -t_nk log softmax(h_n w^T)_k, its gradients taken where the logits are at hand.

    With s = h w^T, p = softmax(s) and m_n = sum_k t_nk:

        L       = sum_n v_n (m_n logsumexp_k s_nk - sum_k t_nk s_nk)
        dL/ds   = v_n (m_n p_nk - t_nk) =: d_nk
        dL/dh   = d w,    dL/dw = d^T h

    d of a chunk of rows is formed while its logits are there, multiplied out into dL/dh (N, b) and dL/dw (K, b), and
    dropped. So the peak is a chunk of rows x K and those two, where the plain form keeps several N x K; and no logit
    is computed twice. The backward pass multiplies by the gradient of L.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, prototypes: Tensor, weights: Tensor, targets: Targets, product_dtype: torch.dtype
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        needs_gradients = any(ctx.needs_input_grad)
        by_hidden = torch.empty_like(hidden)
        by_prototypes = torch.zeros_like(prototypes)
        low_prototypes = prototypes.to(product_dtype)
        cross_entropy, entropy = hidden.new_empty(len(hidden)), hidden.new_empty(len(hidden))
        favorite = torch.empty(len(hidden), dtype=torch.int64, device=hidden.device)
        rows = _rows_on_gpu if hidden.is_cuda else _rows_on_cpu
        for part in chunks(len(hidden), prototypes):
            logits, target = hidden[part] @ prototypes.T, targets(part)
            cross_entropy[part], entropy[part], favorite[part], slope = rows(
                logits, target, weights[part], product_dtype, needs_gradients
            )
            if needs_gradients:
                by_hidden[part] = slope @ low_prototypes
                _add_product(by_prototypes, slope.T, hidden[part].to(product_dtype))
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
    """Return each row's cross-entropy, target entropy and favorite, and d (n, K)."""
    from franca.losses import kernels  # needs Triton, which PyTorch has on Linux only

    found: tuple[Tensor, Tensor, Tensor, Tensor] = kernels.cross_entropy(
        logits, targets, weights, slope_dtype, needs_gradients
    )
    return found


def _rows_on_cpu(
    logits: Tensor, targets: Tensor, weights: Tensor, slope_dtype: torch.dtype, needs_gradients: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As `_rows_on_gpu`; overwrites the logits."""
    mass, agreement = targets.sum(dim=1), _dot(targets, logits)
    total = logsumexp_(logits)
    cross_entropy, entropy = mass * total - agreement, -_dot(targets, targets.log())
    favorite = targets.argmax(dim=1)
    if not needs_gradients:
        return cross_entropy, entropy, favorite, logits
    # softmax(s) m v - t v, in place of exp(s - max)
    slope = logits.mul_((mass * weights / logits.sum(dim=1))[:, None])
    slope = slope.addcmul_(targets, weights[:, None], value=-1).to(slope_dtype)
    return cross_entropy, entropy, favorite, slope


def _add_product(total: Tensor, x: Tensor, y: Tensor) -> None:
    """total += x y, summed in the type of `total`."""
    if x.dtype == total.dtype:
        total.addmm_(x, y)  # needs no memory of its own
    elif x.is_cuda:
        total += torch.mm(x, y, out_dtype=total.dtype)
    else:
        total += x @ y


def _dot(x: Tensor, y: Tensor) -> Tensor:
    """Of each row (n, K) with the other's, without their product in memory: (n,)."""
    return torch.bmm(x[:, None], y[:, :, None])[:, 0, 0]


def prototype_cross_entropy(
    hidden: Tensor, prototypes: Tensor, targets: Targets, weights: Tensor, temperature: float
) -> tuple[Tensor, RowStatistics]:
    """sum_n v_n CE_n, float32, of logits h w^T / temperature with `targets`, and what is known of each row.

    hidden (N, b), prototypes (K, b), weights v (N,), all at least 0. The logits are float32; the two products of the
    backward pass are of the type of `hidden`, bfloat16 where its layers ran under autocast. Not to be called there.
    """
    scaled, low = hidden.float() / temperature, hidden.dtype
    loss, *rows = _PrototypeCrossEntropy.apply(scaled, prototypes.float(), weights, targets, low)
    return loss, RowStatistics(*rows)
