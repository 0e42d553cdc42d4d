import math

import pytest
import torch
from torch.nn import functional as F

from franca.losses.dino import cross_entropy, dino_global_loss, dino_local_loss
from franca.losses.ibot import ibot_loss, mask_weights
from franca.losses.koleo import koleo_loss


def test_uniform_logits_cost_the_logarithm_of_the_prototypes() -> None:
    targets = torch.rand(6, 16).softmax(dim=1)
    torch.testing.assert_close(cross_entropy(torch.zeros(6, 16), targets, 0.1), torch.full((6,), math.log(16)))


def test_every_local_crop_meets_both_global_crops() -> None:
    # Three local crops of two images: each of the six pairs of crops costs log K.
    targets = torch.rand(4, 16).softmax(dim=1)
    torch.testing.assert_close(dino_local_loss(torch.zeros(6, 16), targets, 0.1), torch.tensor(6 * math.log(16)))


def test_crops_meet_crops_of_their_own_image() -> None:
    sure = 100 * F.one_hot(torch.tensor([0, 1]), 4).float()
    targets = F.one_hot(torch.tensor([0, 1, 0, 1]), 4).float()
    assert dino_local_loss(torch.cat([sure, sure, sure]), targets, 0.1) == 0
    assert dino_local_loss(torch.cat([sure, sure, sure.flip(0)]), targets, 0.1) > 100
    assert dino_global_loss(torch.cat([sure, sure]), targets, 0.1) == 0


def test_the_best_student_agrees_with_the_teacher() -> None:
    targets = torch.rand(5, 8).softmax(dim=1)
    logits = (0.1 * targets.log()).requires_grad_()
    loss = cross_entropy(logits, targets, 0.1).sum()
    torch.testing.assert_close(loss, torch.special.entr(targets).sum())
    torch.testing.assert_close(torch.autograd.grad(loss, logits)[0], torch.zeros(5, 8), rtol=0, atol=1e-5)


def test_half_precision_logits_are_computed_in_single() -> None:
    logits, targets = torch.randn(4, 8).bfloat16(), torch.rand(4, 8).softmax(dim=1)
    assert cross_entropy(logits, targets, 0.1).dtype == torch.float32


def test_each_masked_crop_weighs_the_same() -> None:
    masks = torch.tensor([[True, False, True, True], [False] * 4, [True, False, False, False]])
    weights = mask_weights(masks)
    torch.testing.assert_close(weights, torch.tensor([1 / 3, 1 / 3, 1 / 3, 1.0]))
    loss = ibot_loss(torch.zeros(4, 8), torch.full((4, 8), 1 / 8), weights, len(masks), 0.1)
    torch.testing.assert_close(loss, torch.tensor(2 * math.log(8) / 3))


def test_nothing_masked_costs_nothing() -> None:
    masks = torch.zeros(2, 4, dtype=torch.bool)
    student = torch.zeros(0, 8, requires_grad=True)
    loss = ibot_loss(student, torch.zeros(0, 8), mask_weights(masks), len(masks), 0.1)
    loss.backward()
    assert loss == 0


def test_koleo_of_two_orthogonal_rows_of_any_length() -> None:
    x = torch.tensor([[3.0, 0.0], [0.0, 0.5]])
    torch.testing.assert_close(koleo_loss(x), torch.tensor(-0.5 * math.log(2)))


@pytest.mark.parametrize("x", [torch.ones(6, 16), torch.zeros(6, 16)], ids=["identical", "zero"])
def test_koleo_is_finite_on_rows_that_coincide(x: torch.Tensor) -> None:
    x = x.clone().requires_grad_()
    loss = koleo_loss(x)
    assert torch.isfinite(loss)
    assert torch.isfinite(torch.autograd.grad(loss, x)[0]).all()


def test_koleo_finds_the_same_neighbors_under_autocast() -> None:
    x = 5 + torch.randn(64, 32, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        under = koleo_loss(x)
    assert torch.equal(under, koleo_loss(x))


def test_koleo_pushes_neighbors_apart() -> None:
    x = torch.tensor([[1.0, 0.1], [1.0, -0.1], [-1.0, 0.0]], requires_grad=True)
    (gradient,) = torch.autograd.grad(koleo_loss(x), x)
    assert gradient[0, 1] < 0 < gradient[1, 1]
