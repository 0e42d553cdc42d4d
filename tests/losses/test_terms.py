import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from franca.losses import chunks
from franca.losses.assignments import Assignments
from franca.losses.cross_entropy import prototype_cross_entropy
from franca.losses.dino import dino_loss
from franca.losses.ibot import ibot_loss, mask_weights
from franca.losses.koleo import koleo_loss
from franca.models.heads import Level
from tests.losses import plain


def level_of(logits: Tensor) -> Level:
    """A level whose logits are the given ones."""
    return Level(logits, torch.eye(logits.shape[1]))


def assigned(shares: Tensor) -> Assignments:
    """Assignments whose rows are the given ones."""
    size = shares.shape[1]
    return Assignments(shares.clamp_min(1e-38).log(), torch.eye(size), torch.zeros(size), torch.zeros(len(shares)))


@pytest.mark.parametrize("rows_at_once", [1, 3, 100])
def test_chunks_equal_the_textbook_form(rows_at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "MIN_ROWS", rows_at_once)
    monkeypatch.setattr(chunks, "ELEMENTS", {"cpu": 1})
    generator = torch.Generator().manual_seed(0)
    hidden, prototypes = torch.randn(7, 4, generator=generator), torch.randn(16, 4, generator=generator)
    targets, weights = torch.rand(7, 16, generator=generator), torch.rand(7, generator=generator)
    weights[2] = 0
    inputs = [hidden.requires_grad_(), prototypes.requires_grad_()]
    loss, rows = prototype_cross_entropy(hidden, prototypes, lambda part: targets[part], weights, 0.1)
    each = plain.cross_entropy(hidden @ prototypes.T, targets, 0.1)
    torch.testing.assert_close(loss, (weights * each).sum())
    torch.testing.assert_close(rows.cross_entropy, each)
    torch.testing.assert_close(rows.entropy, torch.special.entr(targets).sum(dim=1))
    assert torch.equal(rows.favorite, targets.argmax(dim=1))
    for got, expected in zip(
        torch.autograd.grad(3 * loss, inputs), torch.autograd.grad(3 * (weights * each).sum(), inputs), strict=True
    ):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_only_products_of_the_backward_pass_have_low_precision() -> None:
    generator = torch.Generator().manual_seed(0)
    low = torch.randn(7, 4, generator=generator).bfloat16()
    prototypes = torch.randn(16, 4, generator=generator).requires_grad_()
    targets, weights = torch.rand(7, 16, generator=generator), torch.ones(7)
    losses, gradients = [], []
    for hidden in (low.clone().requires_grad_(), low.float().requires_grad_()):
        loss, _ = prototype_cross_entropy(hidden, prototypes, lambda part: targets[part], weights, 0.1)
        losses.append(loss)
        gradients.append(torch.autograd.grad(loss, [hidden, prototypes]))
    assert torch.equal(*losses) and losses[0].dtype == torch.float32
    for got, expected in zip(*gradients, strict=True):
        assert not torch.equal(got.float(), expected)
        torch.testing.assert_close(got.float(), expected, rtol=0.05, atol=0.05)


def test_the_loss_without_gradients() -> None:
    loss, _ = prototype_cross_entropy(
        torch.zeros(2, 4), torch.ones(8, 4), lambda _: torch.ones(2, 8) / 8, torch.ones(2), 1
    )
    torch.testing.assert_close(loss, torch.tensor(2 * math.log(8)))


def test_uniform_logits_cost_the_logarithm_of_the_prototypes() -> None:
    targets = assigned(torch.rand(4, 16).softmax(dim=1))
    loss = dino_loss(level_of(torch.zeros(10, 16)), targets, 0.1)  # two images, two global and three local crops
    torch.testing.assert_close(loss.across, torch.tensor(math.log(16)))
    # Each of the six pairs of a local and a global crop costs log K.
    torch.testing.assert_close(loss.local, torch.tensor(6 * math.log(16)))
    torch.testing.assert_close(loss.loss, (loss.local + 2 * loss.across) / (2 + 2 * 3))
    assert len(loss.rows.entropy) == 4


def test_without_local_crops_the_scale_is_the_official_third() -> None:
    loss = dino_loss(level_of(torch.zeros(4, 16)), assigned(torch.rand(4, 16).softmax(dim=1)), 0.1)
    assert loss.local == 0
    torch.testing.assert_close(loss.loss, 2 * loss.across / 3)


def test_crops_are_compared_with_crops_of_their_own_image() -> None:
    sure = 100 * F.one_hot(torch.tensor([0, 1]), 4).float()
    targets = assigned(F.one_hot(torch.tensor([0, 1, 0, 1]), 4).float())
    assert dino_loss(level_of(torch.cat([sure] * 5)), targets, 0.1).loss < 1e-20
    assert dino_loss(level_of(torch.cat([sure] * 4 + [sure.flip(0)])), targets, 0.1).local > 100
    assert dino_loss(level_of(torch.cat([sure.flip(0)] + [sure] * 4)), targets, 0.1).across > 100


def test_the_best_student_agrees_with_the_teacher() -> None:
    shares = torch.rand(5, 8).softmax(dim=1)
    logits = (0.1 * shares.log()).requires_grad_()
    loss, _ = ibot_loss(level_of(logits), assigned(shares), torch.ones(5), 1, 0.1)
    torch.testing.assert_close(loss, torch.special.entr(shares).sum())
    torch.testing.assert_close(torch.autograd.grad(loss, logits)[0], torch.zeros(5, 8), rtol=0, atol=1e-5)


def test_each_masked_crop_weighs_the_same() -> None:
    masks = torch.tensor([[True, False, True, True], [False] * 4, [True, False, False, False]])
    weights = mask_weights(masks)
    torch.testing.assert_close(weights, torch.tensor([1 / 3, 1 / 3, 1 / 3, 1.0]))
    loss, _ = ibot_loss(level_of(torch.zeros(4, 8)), assigned(torch.full((4, 8), 1 / 8)), weights, len(masks), 0.1)
    torch.testing.assert_close(loss, torch.tensor(2 * math.log(8) / 3))


def test_the_loss_is_zero_without_masked_patches() -> None:
    masks = torch.zeros(2, 4, dtype=torch.bool)
    student = torch.zeros(0, 8, requires_grad=True)
    loss, _ = ibot_loss(level_of(student), assigned(torch.zeros(0, 8)), mask_weights(masks), len(masks), 0.1)
    loss.backward()
    assert loss == 0


def test_koleo_looks_for_neighbors_within_a_group() -> None:
    x = torch.randn(2, 3, 4, 8)
    each = torch.stack([koleo_loss(group) for group in x.flatten(0, 1)]).view(2, 3)
    torch.testing.assert_close(koleo_loss(x), each)


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
