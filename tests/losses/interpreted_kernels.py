"""Run by test_kernels.py with TRITON_INTERPRET=1: the kernels on a CPU, against PyTorch in float64."""

import math

import torch

from franca.losses import kernels

SHAPES = ((1, 16), (5, 100), (17, 2050), (2, 2048), (33, 130))


def logsumexps(x: torch.Tensor, by_row: torch.Tensor, by_column: torch.Tensor) -> None:
    expected = torch.logsumexp(x.double() - by_column, dim=1).float()
    torch.testing.assert_close(kernels.row_logsumexp(x, by_column), expected, rtol=1e-6, atol=1e-5)
    expected = torch.logsumexp(x.double() - by_row[:, None], dim=0).float()
    torch.testing.assert_close(kernels.column_logsumexp(x, by_row), expected, rtol=1e-6, atol=1e-5)


def assignments(x: torch.Tensor, by_row: torch.Tensor, by_column: torch.Tensor) -> None:
    expected = (x.double() - by_row[:, None] - by_column).clamp(min=-60).exp().float()
    kernels.assign_(x, by_row, by_column)
    torch.testing.assert_close(x, expected, rtol=5e-4, atol=0)  # float32 numbers near 1000 differ by 6e-5


def cross_entropies(x: torch.Tensor) -> None:
    targets, weights = torch.softmax(2 * torch.randn_like(x), dim=1), torch.rand(len(x))
    targets[0, 3] = targets[0, 7] = 2.0  # a tie, and a row that does not sum to 1
    logits = x.double().requires_grad_()
    expected = -(targets * torch.log_softmax(logits, dim=1)).sum(dim=1)
    (expected * weights).sum().backward()
    got, entropy, favorite, slope = kernels.cross_entropy(x, targets, weights, torch.float32, True)
    torch.testing.assert_close(got, expected.float(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(entropy, -(targets.double() * targets.double().log()).sum(dim=1).float())
    assert torch.equal(favorite, targets.argmax(dim=1))
    assert logits.grad is not None
    torch.testing.assert_close(slope, logits.grad.float(), rtol=1e-4, atol=1e-6)
    *rows, none = kernels.cross_entropy(x, targets, weights, torch.bfloat16, False)
    assert all(map(torch.equal, rows, (got, entropy, favorite))) and none.shape == (0, x.shape[1])


def main() -> None:
    torch.manual_seed(0)
    for rows, columns in SHAPES:
        x, by_row, by_column = 30 * torch.randn(rows, columns), torch.randn(rows), 5 * torch.randn(columns)
        x[0] += 1000  # must not overflow
        logsumexps(x, by_row, by_column)
        cross_entropies(x)
        assignments(x, by_row + 1000, by_column)
    nothing = torch.zeros(0, 16)
    assert kernels.column_logsumexp(nothing, torch.zeros(0)).tolist() == [-math.inf] * 16
    assert len(kernels.row_logsumexp(nothing, torch.zeros(16))) == 0
    for got in kernels.cross_entropy(nothing, nothing, torch.zeros(0), torch.float32, True):
        assert len(got) == 0


if __name__ == "__main__":
    main()
