"""Cases 02 to 06: teacher assignments and the terms of the objective.

Case 07, softmax with a moving center, is not here: the product has Sinkhorn-Knopp alone, since the official centers
cannot hold nested levels.
"""

import pytest
import torch

from franca.losses.dino import dino_global_loss, dino_local_loss
from franca.losses.ibot import ibot_loss, mask_weights
from franca.losses.koleo import koleo_loss
from franca.losses.sinkhorn import sinkhorn_knopp
from tests.conformance.conftest import Case


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
    teacher = case.levels("input/teacher_probs")
    for name, term in (("local", dino_local_loss), ("global", dino_global_loss)):
        student = [logits.requires_grad_() for logits in case.levels(f"input/student_{name}")]
        loss = torch.stack([term(s, t, temperature) for s, t in zip(student, teacher, strict=True)]).sum()
        case.check(f"{name}_loss", loss)
        for level, gradient in enumerate(torch.autograd.grad(loss, student)):
            case.check(f"grad_{name}.{level}", gradient)


@pytest.mark.case("05_ibot_patch_loss")
def test_masked_patch_loss_and_gradients(case: Case) -> None:
    masks, temperature = case["input/masks"], case.parameters["student_temp"]
    real, crops = case.parameters["n_masked_patches"], len(masks)
    student = [logits.requires_grad_() for logits in case.levels("input/student")]
    teacher = case.levels("input/teacher_probs")

    def losses(weights: torch.Tensor) -> list[torch.Tensor]:
        return [
            ibot_loss(s[:real], t[:real], weights, crops, temperature) for s, t in zip(student, teacher, strict=True)
        ]

    given = losses(case["input/masks_weight"])
    loss = torch.stack(given).sum()
    case.check("loss", loss)
    case.check("loss_level0_only", given[0])
    case.check("loss_weights_from_masks", torch.stack(losses(mask_weights(masks))).sum())
    for level, gradient in enumerate(torch.autograd.grad(loss, student)):
        case.check(f"grad.{level}", gradient)


@pytest.mark.case("06_koleo")
def test_koleo_and_its_gradient(case: Case) -> None:
    x = case["input/x"].requires_grad_()
    loss = koleo_loss(x)
    case.check("loss", loss)
    case.check("grad.x", torch.autograd.grad(loss, x)[0])
    case.check("loss_close", koleo_loss(case["input/x_close"]))
