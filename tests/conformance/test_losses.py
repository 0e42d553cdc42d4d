"""Cases 02 to 07: teacher assignments and the terms of the objective.

Logits are given here, where the product multiplies a head's bottleneck by prototypes: the identity leaves them alone.
"""

import pytest
import torch
from torch import Tensor

from franca.losses.assignments import Assignments
from franca.losses.centering import centered, moved_center
from franca.losses.dino import dino_loss
from franca.losses.ibot import ibot_loss, mask_weights
from franca.losses.koleo import koleo_loss
from franca.losses.sinkhorn import sinkhorn
from franca.models.heads import Level
from tests.conformance.conftest import Case


def level_of(logits: Tensor) -> Level:
    return Level(logits, torch.eye(logits.shape[1]))


def assigned(probabilities: Tensor) -> Assignments:
    """Assignments whose rows are the given ones."""
    logs = probabilities.clamp_min(1e-38).log()
    return Assignments(logs, torch.eye(logs.shape[1]), torch.zeros(logs.shape[1]), torch.zeros(len(logs)))


def sinkhorn_knopp(logits: Tensor, temperature: float, iterations: int) -> Tensor:
    whole = sinkhorn(*level_of(logits / temperature), iterations)
    torch.testing.assert_close(whole.without_rows().rows(), whole.rows(), rtol=1e-4, atol=1e-7)
    return whole.rows()


@pytest.mark.case("02_sinkhorn_cls")
def test_assignments_of_class_tokens(case: Case) -> None:
    for temperature in case.parameters["teacher_temps"]:
        for level, logits in enumerate(case.levels("input/logits")):
            got = sinkhorn_knopp(logits, temperature, case.parameters["n_iterations"])
            case.check(f"probs.temp{temperature}.{level}", got)


@pytest.mark.case("03_sinkhorn_patch")
def test_assignments_of_real_patches_alone(case: Case) -> None:
    real = int(case["input/n_masked_patches"])
    for temperature in case.parameters["teacher_temps"]:
        for level, logits in enumerate(case.levels("input/logits")):
            name = f"alternative/without_padding.temp{temperature}.{level}"
            got = sinkhorn_knopp(logits[:real], temperature, case.parameters["n_iterations"])
            case.compare(name, got, case[name])


@pytest.mark.case("03_sinkhorn_patch")
def test_padding_taken_for_patches_gives_the_official_training_step(case: Case) -> None:
    for temperature in case.parameters["teacher_temps"]:
        for level, logits in enumerate(case.levels("input/logits")):
            got = sinkhorn_knopp(logits, temperature, case.parameters["n_iterations"])
            case.check(f"probs.temp{temperature}.{level}", got)


@pytest.mark.case("04_dino_loss")
def test_class_token_loss_and_gradients(case: Case) -> None:
    temperature = case.parameters["student_temp"]
    local, across = (
        [logits.requires_grad_() for logits in case.levels(f"input/student_{name}")] for name in ("local", "global")
    )
    teacher = [assigned(probabilities) for probabilities in case.levels("input/teacher_probs")]
    losses = [
        dino_loss(level_of(torch.cat(pair)), targets, temperature)
        for *pair, targets in zip(across, local, teacher, strict=True)
    ]
    case.check("local_loss", torch.stack([loss.local for loss in losses]).sum())
    case.check("global_loss", torch.stack([loss.across for loss in losses]).sum())
    # The whole is (local + 2 global) / (2 + 2 n), and each row belongs to one of the two.
    images = len(teacher[0]) // 2
    scale = 1 / (2 + 2 * len(local[0]) / images)
    total = torch.stack([loss.loss for loss in losses]).sum()
    for level, gradient in enumerate(torch.autograd.grad(total, local, retain_graph=True)):
        case.check(f"grad_local.{level}", gradient / scale)
    for level, gradient in enumerate(torch.autograd.grad(total, across)):
        case.check(f"grad_global.{level}", gradient / (2 * scale))


@pytest.mark.case("05_ibot_patch_loss")
def test_masked_patch_loss_and_gradients(case: Case) -> None:
    masks, temperature = case["input/masks"], case.parameters["student_temp"]
    real, crops = case.parameters["n_masked_patches"], len(masks)
    student = [logits.requires_grad_() for logits in case.levels("input/student")]
    teacher = case.levels("input/teacher_probs")

    def losses(weights: Tensor) -> list[Tensor]:
        return [
            ibot_loss(level_of(s[:real]), assigned(t[:real]), weights, crops, temperature)[0]
            for s, t in zip(student, teacher, strict=True)
        ]

    given = losses(case["input/masks_weight"])
    loss = torch.stack(given).sum()
    case.check("loss", loss)
    case.check("loss_level0_only", given[0])
    case.check("loss_weights_from_masks", torch.stack(losses(mask_weights(masks))).sum())
    for level, gradient in enumerate(torch.autograd.grad(loss, student)):
        case.check(f"grad.{level}", gradient)


@pytest.mark.case("07_centering")
def test_softmax_with_a_moving_center(case: Case) -> None:
    for kind in ("cls", "patch"):
        center = torch.zeros_like(case[f"expected/{kind}_center_used.0"]).flatten()
        for step, temperature in enumerate(case.parameters["teacher_temps"]):
            logits = case[f"input/{kind}_logits.{step}"]
            case.check(f"{kind}_center_used.{step}", center.view_as(case[f"expected/{kind}_center_used.{step}"]))
            hidden, prototypes = level_of(logits.flatten(0, -2) / temperature)
            shares = centered(hidden, prototypes, center / temperature).rows()
            case.check(f"{kind}_probs.{step}", shares.view_as(logits))
            center = moved_center(center, logits.flatten(0, -2), prototypes, case.parameters["center_momentum"])
        case.check(f"{kind}_center_final", center.view_as(case[f"expected/{kind}_center_final"]))


@pytest.mark.case("06_koleo")
def test_koleo_and_its_gradient(case: Case) -> None:
    x = case["input/x"].requires_grad_()
    loss = koleo_loss(x)
    case.check("loss", loss)
    case.check("grad.x", torch.autograd.grad(loss, x)[0])
    case.check("loss_close", koleo_loss(case["input/x_close"]))
