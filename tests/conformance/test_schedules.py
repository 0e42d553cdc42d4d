"""Case 11: schedules, and the multipliers of each parameter.

After its last iteration an official schedule goes on with its final value; ours ends with the run.
"""

import re
from collections import Counter

import numpy as np
import pytest
import torch

from franca.params import Backbone as BackboneParams
from franca.params import Base
from franca.pretrain.network import Network
from franca.pretrain.optimizer import group_key, make_optimizer
from franca.pretrain.schedules import Schedule, cosine, make_schedules
from tests.conformance.conftest import Case
from tests.conftest import MakeParams


@pytest.mark.case("11_schedules")
def test_schedules(case: Case, tiny_params: MakeParams) -> None:
    about = case.parameters
    pretrain = tiny_params(
        {
            "pretrain.batch_size": 1024,  # where the learning rate needs no scaling
            "pretrain.epochs": about["epochs"],
            "pretrain.optimizer.base_lr": about["lr"],
            "pretrain.optimizer.min_lr": about["min_lr"],
            "pretrain.optimizer.warmup_epochs": about["warmup_epochs"],
            "pretrain.optimizer.weight_decay": [about["weight_decay"], about["weight_decay_end"]],
            "pretrain.optimizer.teacher_momentum": [about["momentum"], about["final_momentum"]],
            "pretrain.optimizer.freeze_last_layer_epochs": about["freeze_last_layer_epochs"],
            "pretrain.losses.teacher_temperature": [about["warmup_teacher_temp"], about["teacher_temp"]],
            "pretrain.losses.teacher_warmup_epochs": about["warmup_teacher_temp_epochs"],
        }
    ).pretrain
    schedules = make_schedules(pretrain, about["epoch_length"])
    assert schedules.total == about["epochs"] * about["epoch_length"]
    for name, got, final in (
        ("lr", schedules.lr, about["min_lr"]),
        ("last_layer_lr", schedules.last_layer_lr, about["min_lr"]),
        ("weight_decay", schedules.weight_decay, about["weight_decay_end"]),
        ("momentum", schedules.teacher_momentum, about["final_momentum"]),
        ("teacher_temp", schedules.teacher_temperature, about["teacher_temp"]),
    ):
        check_schedule(case, name, got, final)


@pytest.mark.case("11_schedules")
def test_a_freeze_puts_zeros_before_the_warm_up(case: Case) -> None:
    # No official schedule of training has it: the prototypes' rate is zeroed where the others warm up, as ours is.
    base, final, total, warmup, start, freeze = map(
        float, re.findall(r"(?:base|final|total|warmup|from|freeze) ([\d.e-]+\b)", case.meaning("freeze_example"))
    )
    moving = cosine(base, final, int(total - freeze), int(warmup), start)
    check_schedule(case, "freeze_example", np.concatenate([np.zeros(int(freeze)), moving]), final)


def check_schedule(case: Case, name: str, got: Schedule, final: float) -> None:
    """Compare a schedule and the official values after its end, all of them `final`."""
    after = np.full(len(case[f"expected/{name}"]) - len(got), final)
    case.check(name, torch.from_numpy(np.concatenate([got, after])))


@pytest.mark.case("11_schedules")
def test_multipliers_of_each_parameter(case: Case, tiny_params: MakeParams) -> None:
    for title, parameters in case.json()["groups"].items():
        owner = "backbone" if title.startswith("backbone") else "dino_head"
        decay, patch_embed = re.findall(r"(?:decay|mult) ([\d.]+)", title)
        optimizer = tiny_params(
            {
                "pretrain.optimizer.layer_decay": float(decay),
                "pretrain.optimizer.patch_embed_lr": float(patch_embed),
            }
        ).pretrain.optimizer
        names = [case.rename(parameter["name"]) for parameter in parameters]
        depth = 1 + max((int(name.split(".")[1]) for name in names if name.startswith("blocks.")), default=0)
        for name, expected in zip(names, parameters, strict=True):
            got = group_key(f"{owner}.{name}", depth, optimizer)
            assert got.lr_multiplier == pytest.approx(expected["lr_multiplier"], rel=1e-12), name
            assert got.wd_multiplier == expected["wd_multiplier"], name
            assert got.last_layer == expected["is_last_layer"], name


@pytest.mark.case("11_schedules")
def test_groups_hold_every_parameter_of_the_first_backbone_once(case: Case, tiny_params: MakeParams) -> None:
    title, parameters = next(iter(case.json()["groups"].items()))
    decay, patch_embed = re.findall(r"(?:decay|mult) ([\d.]+)", title)
    params = tiny_params(
        {
            "pretrain.optimizer.layer_decay": float(decay),
            "pretrain.optimizer.patch_embed_lr": float(patch_embed),
        }
    )
    depth = 1 + max(int(p["name"].split(".")[1]) for p in parameters if p["name"].startswith("blocks."))
    backbone = BackboneParams.model_validate(
        params.base.backbone.model_dump() | {"depth": depth, "ffn": "swiglu", "registers": 0}
    )
    network = Network(Base.model_validate(params.base.model_dump() | {"backbone": backbone}), params.pretrain)
    optimizer = make_optimizer(network, params.pretrain.optimizer)
    heads = {*network.dino_head.parameters(), *network.ibot_head.parameters()}

    got = Counter[tuple[float, float]]()
    seen = []
    for group in optimizer.param_groups:
        seen += group["params"]
        key = (round(group["lr_multiplier"], 12), group["wd_multiplier"])
        got[key] += sum(parameter not in heads for parameter in group["params"])
    assert len(seen) == len(set(seen)) and set(seen) == set(network.parameters())
    expected = Counter[tuple[float, float]]()
    for group in case.json()["fused_groups_of_first"]:
        expected[(round(group["lr_multiplier"], 12), group["wd_multiplier"])] += group["n_tensors"]
    assert +got == expected
