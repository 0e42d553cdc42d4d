"""Triton kernels of Sinkhorn-Knopp and the cross-entropy for CUDA, called by `sinkhorn.py` and `cross_entropy.py`.

The logits (tokens, prototypes) are the largest tensors of training, and every operation on them is bound by memory
bandwidth. Each kernel therefore does as much as possible with one read: a step makes 17.5 passes over the logits, a
textbook form 44 (benchmarks/PASSES.md). The PyTorch code for CPUs in the calling modules is the reference; tests
compare the two with Triton's interpreter.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

FLOOR = tl.constexpr(-60.0)
"""Smallest exponent, as in `chunks.exp_`: float32 cannot add e^-60 to 1, but its logarithm is finite."""
_LOWEST = tl.constexpr(-1.0e30)
"""Used in place of -inf: the difference of two of them is 0, not NaN."""

_ROW_BLOCK, _ROW_WARPS = 2048, 8
_COLUMN_BLOCK, _COLUMN_ROWS, _COLUMN_WARPS = 128, 16, 4
_PROGRAMS = 1024
"""Programs that fill a large GPU several times over (an H100 has 132 multiprocessors)."""


@triton.jit
def _add_to_logsumexp(peak, total, x):  # type: ignore[no-untyped-def]
    """Update an elementwise running log-sum-exp, exp(peak) total += exp(x), with a single exponential."""
    difference = x - peak
    scale = tl.exp(-tl.abs(difference))
    total = tl.where(difference > 0, total * scale + 1, total + scale)
    return tl.maximum(peak, x), total


@triton.jit
def _row_logsumexp(x, shift, out, columns, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    # int64, because an index into (tokens, prototypes) may exceed 2^31.
    row = tl.program_id(0).to(tl.int64)
    lanes = tl.arange(0, BLOCK)
    # One running log-sum-exp for each lane; lanes are combined once at the end, not once per block.
    peak = tl.full([BLOCK], _LOWEST, tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    for start in range(0, columns, BLOCK):
        k = start + lanes
        valid = k < columns
        value = tl.load(x + row * columns + k, mask=valid, other=0.0) - tl.load(shift + k, mask=valid, other=0.0)
        peak, total = _add_to_logsumexp(peak, total, tl.where(valid, value, _LOWEST))
    highest = tl.max(peak, axis=0)
    tl.store(out + row, highest + tl.log(tl.sum(total * tl.exp(peak - highest), axis=0)))


@triton.jit
def _column_logsumexp(  # type: ignore[no-untyped-def]
    x, shift, out, rows, columns, rows_a_program, BLOCK: tl.constexpr, ROWS: tl.constexpr
):
    # A program sums a block of columns over a range of rows and writes a partial result for that range.
    k = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    first = tl.program_id(1) * rows_a_program
    last = tl.minimum(first + rows_a_program, rows)
    valid_columns = k < columns
    # ROWS running values for each column, which are combined once at the end.
    peak = tl.full([ROWS, BLOCK], _LOWEST, tl.float32)
    total = tl.zeros([ROWS, BLOCK], tl.float32)
    for start in range(first, last, ROWS):
        n = start + tl.arange(0, ROWS)
        valid = (n < last)[:, None] & valid_columns[None, :]
        places = n.to(tl.int64)[:, None] * columns + k[None, :]
        value = tl.load(x + places, mask=valid, other=0.0) - tl.load(shift + n, mask=n < last, other=0.0)[:, None]
        peak, total = _add_to_logsumexp(peak, total, tl.where(valid, value, _LOWEST))
    highest = tl.max(peak, axis=0)
    value = highest + tl.log(tl.sum(total * tl.exp(peak - highest[None, :]), axis=0))
    tl.store(out + tl.program_id(1).to(tl.int64) * columns + k, value, mask=valid_columns)


@triton.jit
def _assign(x, row_shift, column_shift, columns, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    k = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    valid = k < columns
    value = tl.load(x + row * columns + k, mask=valid) - tl.load(column_shift + k, mask=valid)
    value = tl.maximum(value - tl.load(row_shift + row), FLOOR)
    tl.store(x + row * columns + k, tl.exp(value), mask=valid)


@triton.jit
def _cross_entropy(  # type: ignore[no-untyped-def]
    logits,
    targets,
    weights,
    cross_entropy,
    entropy,
    favorite,
    slope,
    columns,
    WITH_SLOPE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    lanes = tl.arange(0, BLOCK)
    logits += row * columns
    targets += row * columns
    peak = tl.full([BLOCK], _LOWEST, tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    mass = tl.zeros([BLOCK], tl.float32)
    agreement = tl.zeros([BLOCK], tl.float32)
    information = tl.zeros([BLOCK], tl.float32)
    best = tl.full([BLOCK], -1.0, tl.float32)
    place = tl.zeros([BLOCK], tl.int32)
    # First read: the normalizer of the softmax, the row's statistics and its largest target.
    for start in range(0, columns, BLOCK):
        k = start + lanes
        valid = k < columns
        s = tl.load(logits + k, mask=valid, other=0.0)
        t = tl.load(targets + k, mask=valid, other=0.0)
        peak, total = _add_to_logsumexp(peak, total, tl.where(valid, s, _LOWEST))
        mass += t
        agreement += t * s
        information += t * tl.log(tl.where(valid, t, 1.0))
        place = tl.where(t > best, k, place)
        best = tl.maximum(best, t)
    highest = tl.max(peak, axis=0)
    normalizer = highest + tl.log(tl.sum(total * tl.exp(peak - highest), axis=0))
    row_mass = tl.sum(mass, axis=0)
    tl.store(cross_entropy + row, row_mass * normalizer - tl.sum(agreement, axis=0))
    tl.store(entropy + row, -tl.sum(information, axis=0))
    # The first of equal maxima, like torch's argmax on a CPU; each lane has kept the first of its own.
    first = tl.min(tl.where(best == tl.max(best, axis=0), place, columns), axis=0)
    tl.store(favorite + row, first.to(tl.int64))
    # Second read, only for gradients: they need the normalizer of the whole row.
    if WITH_SLOPE:
        weight = tl.load(weights + row)
        slope += row * columns
        for start in range(0, columns, BLOCK):
            k = start + lanes
            valid = k < columns
            s = tl.load(logits + k, mask=valid, other=0.0)
            t = tl.load(targets + k, mask=valid, other=0.0)
            value = weight * (row_mass * tl.exp(s - normalizer) - t)
            tl.store(slope + k, value.to(slope.dtype.element_ty), mask=valid)


# The kernels are custom operators, so that a step can run on fake tensors without a GPU: to count its work
# (benchmarks/passes.py), and to find operations for which the host would wait (tests/pretrain/test_fake_device.py).
@torch.library.custom_op("franca::row_logsumexp", mutates_args=())
def row_logsumexp(x: Tensor, shift: Tensor) -> Tensor:
    """Return log sum_k exp(x_nk - shift_k), (N,) float32, of x (N, K) and shift (K,)."""
    rows, columns = x.shape
    out = x.new_empty(rows)
    if rows:
        _row_logsumexp[(rows,)](x, shift, out, columns, BLOCK=_ROW_BLOCK, num_warps=_ROW_WARPS)
    return out


@row_logsumexp.register_fake
def _(x: Tensor, shift: Tensor) -> Tensor:
    return x.new_empty(len(x))


@torch.library.custom_op("franca::column_logsumexp", mutates_args=())
def column_logsumexp(x: Tensor, shift: Tensor) -> Tensor:
    """Return log sum_n exp(x_nk - shift_n), (K,) float32, of x (N, K) and shift (N,); -inf if N is 0."""
    rows, columns = x.shape
    if not rows:  # a rank without a masked patch
        return x.new_full((columns,), -torch.inf)
    blocks = triton.cdiv(columns, _COLUMN_BLOCK)
    # A narrow level has too few columns to fill the GPU, so its rows are divided among several programs.
    each = triton.cdiv(rows, max(1, min(_PROGRAMS // blocks, triton.cdiv(rows, _COLUMN_ROWS))))
    parts = triton.cdiv(rows, each)
    out = x.new_empty(parts, columns)
    _column_logsumexp[(blocks, parts)](
        x, shift, out, rows, columns, each, BLOCK=_COLUMN_BLOCK, ROWS=_COLUMN_ROWS, num_warps=_COLUMN_WARPS
    )
    # The partial results of the programs that share columns.
    return torch.logsumexp(out, dim=0)


@column_logsumexp.register_fake
def _(x: Tensor, shift: Tensor) -> Tensor:
    return x.new_empty(x.shape[1])


@torch.library.custom_op("franca::assign_", mutates_args={"x"})
def assign_(x: Tensor, row_shift: Tensor, column_shift: Tensor) -> None:
    """Replace x (N, K) by exp(max(x_nk - row_shift_n - column_shift_k, -60))."""
    rows, columns = x.shape
    if rows:
        grid = (rows, triton.cdiv(columns, _ROW_BLOCK))
        _assign[grid](x, row_shift, column_shift, columns, BLOCK=_ROW_BLOCK, num_warps=_ROW_WARPS)


@assign_.register_fake
def _(x: Tensor, row_shift: Tensor, column_shift: Tensor) -> None:
    pass


@torch.library.custom_op("franca::cross_entropy", mutates_args=())
def cross_entropy(
    logits: Tensor, targets: Tensor, weights: Tensor, slope_dtype: torch.dtype, with_slope: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return cross-entropy, target entropy and favorite of each row, and the gradient of the logits.

    Args:
        logits: (N, K) float32, contiguous.
        targets: (N, K) float32, contiguous, all above 0.
        weights: (N,) float32, weights of the rows in the loss.
        slope_dtype: dtype of the gradient.
        with_slope: Whether to compute the gradient.

    Returns:
        -sum_k t log softmax(s) (N,), -sum_k t log t (N,), argmax_k t (N,) int64, and the gradient of the weighted
        cross-entropy with respect to the logits, (N, K), or (0, K) if `with_slope` is false.
    """
    rows, columns = logits.shape
    cross, entropy = logits.new_empty(rows), logits.new_empty(rows)
    favorite = torch.empty(rows, dtype=torch.int64, device=logits.device)
    slope = torch.empty(rows if with_slope else 0, columns, dtype=slope_dtype, device=logits.device)
    if rows:
        _cross_entropy[(rows,)](
            logits,
            targets,
            weights,
            cross,
            entropy,
            favorite,
            slope,
            columns,
            WITH_SLOPE=with_slope,
            BLOCK=_ROW_BLOCK,
            num_warps=_ROW_WARPS,
        )
    return cross, entropy, favorite, slope


@cross_entropy.register_fake
def _(
    logits: Tensor, targets: Tensor, weights: Tensor, slope_dtype: torch.dtype, with_slope: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rows, columns = logits.shape
    return (
        logits.new_empty(rows),
        logits.new_empty(rows),
        logits.new_empty(rows, dtype=torch.int64),
        logits.new_empty(rows if with_slope else 0, columns, dtype=slope_dtype),
    )
