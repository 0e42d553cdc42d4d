"""Cases 08a and 08b: the whole objective, and whole training steps of a tiny student and teacher.

The official patch assignments count the rows of padding as samples, as `compat: official` does here.
"""

from typing import Any, cast

import pytest
import torch
from torch import Tensor

from franca.losses.dino import dino_loss
from franca.losses.ibot import mask_weights
from franca.models.heads import Level
from franca.params import Base, Losses, Params, Pretrain
from franca.pretrain.network import Network, Outputs, update_teacher
from franca.pretrain.objective import Assigner, StudentLoss, Targets, student_loss
from franca.pretrain.optimizer import clip_gradients, make_optimizer, set_rates
from tests.conformance.conftest import Case
from tests.conformance.test_losses import level_of
from tests.conftest import MakeParams

NORMS_WITHIN = {"rtol": 2e-3, "atol": 1e-5}
LOSSES_WITHIN = {"rtol": 5e-4, "atol": 0.0}


def dino_sums(student: Outputs, targets: Targets, losses: Losses) -> tuple[Tensor, Tensor]:
    """Return the losses of local and of global crops, summed over levels, without their scale."""
    levels = zip(student.dino[::-1], targets.dino, strict=True)
    found = [dino_loss(level, assigned, losses.student_temperature) for level, assigned in levels]
    return sum(level.local for level in found), sum(level.across for level in found)  # type: ignore[return-value]


def check_terms(case: Case, loss: StudentLoss, dino: tuple[Tensor, Tensor], local_count: int, losses: Losses) -> None:
    scale = 1 / (2 + 2 * local_count)
    case.check("dino_local_crops_loss", dino[0] * scale)
    case.check("dino_global_crops_loss", dino[1] * 2 * scale)
    torch.testing.assert_close(loss.metrics["dino"].value, dino[0] + dino[1])
    case.check("koleo_loss_displayed", losses.koleo_weight * loss.metrics["koleo"].value / 2)
    case.check("ibot_loss_displayed", loss.metrics["ibot"].value / 2)
    case.check("total", loss.total)


@pytest.mark.case("08a_total_objective")
def test_objective_on_given_head_outputs(case: Case, tiny_params: MakeParams) -> None:
    about, masks = case.parameters, case["input/masks"]
    real = about["n_masked_patches"]
    classes = torch.cat([case["input/student_cls_crop1"], case["input/student_cls_crop2"]])
    losses = tiny_params().pretrain.losses.model_copy(
        update={name: about[f"{name[:4]}_loss_weight"] for name in ("dino_weight", "ibot_weight")}
        | {
            "koleo_weight": about["koleo_loss_weight"],
            "koleo_images": len(classes) // 2,
            "student_temperature": about["student_temp"],
        }
    )
    # The case's class logits have their halves swapped already, which the assigner does itself.
    teacher = Outputs(
        classes,
        [level_of(torch.cat(logits.chunk(2)[::-1])) for logits in case.levels("input/teacher_cls_logits")],
        [level_of(logits[:real]) for logits in case.levels("input/teacher_patch_logits")],
    )
    padding = [level_of(logits[real:]) for logits in case.levels("input/teacher_patch_logits")]
    (assigned,) = Assigner(losses, ())([teacher], about["teacher_temp"], padding)
    targets = Targets(list(assigned.dino), list(assigned.ibot), None)
    everything = teacher._replace(ibot=[level_of(x) for x in case.levels("input/teacher_patch_logits")])
    (with_padding,) = Assigner(losses, ())([everything], about["teacher_temp"])
    levels = [reversed(list(head)) for head in (targets.dino, with_padding.ibot, targets.ibot)]
    for level, (of_classes, of_everything, of_patches) in enumerate(zip(*levels, strict=True)):
        case.check(f"teacher_cls_probs.{level}", of_classes.rows())
        case.check(f"teacher_patch_probs.{level}", of_everything.rows())
        torch.testing.assert_close(of_patches.rows(), of_everything.rows()[:real])

    student = Outputs(
        classes,
        [
            level_of(torch.cat(logits))
            for logits in zip(
                case.levels("input/student_global_logits"), case.levels("input/student_local_logits"), strict=True
            )
        ],
        [level_of(logits[:real]) for logits in case.levels("input/student_patch_logits")],
    )
    torch.testing.assert_close(mask_weights(masks), case["input/masks_weight"])
    loss = student_loss(student, targets, case["input/masks_weight"], losses, range(len(student.dino)))
    dino = dino_sums(student, targets, losses)
    case.check("dino_local_raw", dino[0])
    case.check("dino_global_raw", dino[1])
    case.check("ibot_raw", loss.metrics["ibot"].value)
    check_terms(case, loss, dino, about["n_local_crops"], losses)


class Trainer:
    """Student, teacher and optimizer of case 08b."""

    def __init__(self, case: Case, params: Params) -> None:
        about, vit, head = case.parameters, case.parameters["vit"], case.parameters["head"]
        backbone = params.base.backbone.model_copy(
            update={name: vit[name] for name in ("patch_size", "embed_dim", "depth", "num_heads")}
            | {"ffn": "swiglu" if "swiglu" in vit["ffn"] else "mlp"}
        )
        base = Base.model_construct(seed=0, image_size=vit["img_size"], backbone=backbone)
        self.pretrain: Pretrain = params.pretrain.model_copy(
            update={
                "drop_path": vit["drop_path_rate"],
                "heads": params.pretrain.heads.model_copy(
                    update={
                        "prototypes": head["out_dim"],
                        "hidden_dim": head["hidden_dim"],
                        "bottleneck_dim": head["bottleneck_dim"],
                        "nesting": "project",
                        "sharing": "dedicated",
                    }
                ),
                "optimizer": params.pretrain.optimizer.model_copy(
                    update={
                        "layer_decay": about["layerwise_decay"],
                        "patch_embed_lr": about["patch_embed_lr_mult"],
                        "clip_norm": about["clip_grad"],
                    }
                ),
                "losses": params.pretrain.losses.model_copy(
                    update={"dino_weight": 1.0, "ibot_weight": 1.0, "koleo_weight": 0.1, "student_temperature": 0.1}
                    | {"koleo_images": about["batch"]}
                ),
            }
        )
        self.case = case
        self.student, self.teacher = (Network(base, self.pretrain) for _ in range(2))
        self.student.load_state_dict(_weights(case, "weight/student."))
        self.teacher.load_state_dict(_weights(case, "weight/teacher."))
        self.teacher.requires_grad_(False).eval()
        self.optimizer = make_optimizer(self.student, self.pretrain.optimizer)
        self.assigner = Assigner(self.pretrain.losses, self.teacher.ibot_head.counts)

    def losses(self, temperature: float) -> tuple[StudentLoss, tuple[Tensor, Tensor]]:
        """Return the objective, and the sums of `dino_sums` without gradients."""
        case = self.case
        global_crops, masks = case["input/collated_global_crops"], case["input/collated_masks"]
        masked = masks.flatten().nonzero()[:, 0]
        padding: list[Level] = self.teacher.ibot_head(
            torch.zeros(case.parameters["upperbound"] - len(masked), case.parameters["vit"]["embed_dim"])
        )
        (lazy,) = self.assigner([self.teacher(global_crops, masked)], temperature, padding)
        targets = Targets(list(lazy.dino), list(lazy.ibot), None)
        student = self.student(global_crops, masked, masks, case["input/collated_local_crops"])
        levels = self.student.dino_head.levels
        loss = student_loss(student, targets, mask_weights(masks), self.pretrain.losses, levels)
        with torch.no_grad():
            return loss, dino_sums(student, targets, self.pretrain.losses)

    def gradients(self) -> dict[str, Tensor]:
        gradients = {name: parameter.grad for name, parameter in self.student.named_parameters()}
        assert all(gradient is not None for gradient in gradients.values())
        return cast(dict[str, Tensor], gradients)

    def update(self, settings: dict[str, float]) -> None:
        set_rates(self.optimizer, settings["lr"], settings["last_layer_lr"], settings["weight_decay"])
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        update_teacher(self.teacher, self.student, settings["momentum"], torch.zeros(()))


def _weights(case: Case, prefix: str) -> dict[str, Tensor]:
    return {_rename(case, name): case[prefix + name] for name in case.names(prefix)}


def _rename(case: Case, name: str) -> str:
    owner, _, rest = name.partition(".")
    return f"{owner}.{case.rename(rest)}"


def check_all(case: Case, prefix: str, got: dict[str, Tensor]) -> None:
    names = case.names(f"expected/{prefix}.")
    assert names
    for name in names:
        case.check(f"{prefix}.{name}", got[_rename(case, name)])


@pytest.mark.case("08b_training_step")
def test_three_training_steps(case: Case, tiny_params: MakeParams) -> None:
    trainer = Trainer(case, tiny_params())
    story: dict[str, Any] = case.json()
    for index, settings in enumerate(story["three_steps"]):
        loss, dino = trainer.losses(settings["teacher_temp"])
        expected = torch.tensor(settings["total_back_propagated"])
        case.compare(f"step {index}: total", loss.total, expected, LOSSES_WITHIN)
        if index == 0:
            check_terms(case, loss, dino, case.parameters["n_local_crops"], trainer.pretrain.losses)

        loss.total.backward()
        if index == 0:
            check_all(case, "grad", trainer.gradients())
        norms = clip_gradients(trainer.student, trainer.pretrain.optimizer.clip_norm)
        for name, norm in settings["gradient_norm_before_clipping"].items():
            case.compare(
                f"step {index}: norm of {name}", norms[name], torch.tensor(norm), {"rtol": 2e-3, "atol": 1e-5}
            )
        check_all(case, f"grad_clipped_step{index}", trainer.gradients())

        trainer.update(settings)
        if index == 0:
            check_all(case, "student_after", dict(trainer.student.named_parameters()))
            check_all(case, "teacher_after", dict(trainer.teacher.named_parameters()))
    check_all(case, "student_after3", dict(trainer.student.named_parameters()))
    check_all(case, "teacher_after3", dict(trainer.teacher.named_parameters()))


@pytest.mark.case("08b_training_step")
def test_gradient_norm_of_each_parameter(case: Case, tiny_params: MakeParams) -> None:
    trainer = Trainer(case, tiny_params())
    loss, _ = trainer.losses(case.parameters["step0"]["teacher_temp"])
    loss.total.backward()
    gradients = trainer.gradients()
    for name, norm in case.json()["gradient_norm_per_parameter"].items():
        got = gradients[_rename(case, name)].norm()
        case.compare(f"norm of {name}", got, torch.tensor(norm), NORMS_WITHIN)
