"""The parts of a plan, against a step on fake CUDA tensors and by hand."""

from typing import Any

import pytest
import torch

from franca import presets
from franca.params import Params, parse_params
from franca.plan.estimate import ASSIGNMENT, CONTEXT, EFFICIENCY, Plan, make_plan
from franca.plan.hardware import ASSUMED, peak_tflops
from franca.pretrain.network import Network, share_prototypes
from tests.conftest import MakeParams, set_value
from tests.plan.fake_step import forward_peak


def changed(preset: str, changes: dict[str, Any]) -> Params:
    tree = presets.values(preset)
    for path, value in changes.items():
        set_value(tree, path, value)
    return parse_params(tree, preset)


@pytest.mark.parametrize(
    ("images", "parts", "prototypes", "nesting"),
    [(32, 1, 131072, "project"), (256, 8, 65536, "none")],
)
def test_memory_is_what_a_step_keeps_alive(images: int, parts: int, prototypes: int, nesting: str) -> None:
    changes = {
        "base.backbone.depth": 2,
        "pretrain.batch_size": images,
        "pretrain.heads.prototypes": prototypes,
        "pretrain.heads.nesting": nesting,
        "runtime.microbatch": images // parts,
        "runtime.compile": False,
    }
    params = changed("vitl14-in21k", changes)
    losses, assignment = forward_peak(params, images, parts, True)
    plan = make_plan(params, 1, 1, ASSUMED, True, None)
    assert plan.microbatches == parts and (ASSIGNMENT in plan.memory) == (assignment > losses)
    estimated = plan.needed - CONTEXT - plan.memory["gradients"] - plan.memory["AdamW moments"]
    assert estimated == pytest.approx(max(losses, assignment), rel=0.1)


def test_outputs_of_all_parts_share_their_prototypes(tiny_params: MakeParams) -> None:
    params = tiny_params()
    network = Network(params.base, params.pretrain)
    parts = [torch.randn(4, 3, 32, 32), torch.randn(4, 3, 32, 32)]
    first, second = share_prototypes(network(part, torch.arange(5)) for part in parts)
    for one, other in zip(first.dino + first.ibot, second.dino + second.ibot, strict=True):
        assert other.prototypes is one.prototypes and not torch.equal(other.hidden, one.hidden)


BIG = {"pretrain.batch_size": 64, "pretrain.heads.nesting": "none"}


def plan_of(params: Params, gpus: int = 8, images: int | None = None) -> Plan:
    return make_plan(params, gpus, 4, ASSUMED, True, images)


def test_weights_gradients_and_moments_are_shared_by_fsdp(tiny_params: MakeParams) -> None:
    plan = plan_of(tiny_params(BIG))
    alone, sharded = plan.memory, plan_of(tiny_params(BIG | {"runtime.parallel": "fsdp"})).memory
    for name, words in (("weights of student and teacher", 2), ("gradients", 1), ("AdamW moments", 2)):
        assert alone[name] == 4 * words * plan.parameters
        assert sharded[name] == alone[name] // 8
    assert "FSDP: gathered weights" in sharded and "FSDP: gathered weights" not in alone
    assert plan.checkpoint == 2 * alone["AdamW moments"]


def test_checkpointing_trades_memory_for_flops(tiny_params: MakeParams) -> None:
    deep = BIG | {"base.backbone.depth": 12}
    plain, checkpointed = (
        plan_of(tiny_params(deep | {"runtime.activation_checkpointing": choice})) for choice in (False, True)
    )
    name = "student: saved activations"
    assert checkpointed.memory[name] < plain.memory[name] / 3
    assert 1.15 < checkpointed.flops / plain.flops < 1.35 and checkpointed.paper_flops == plain.paper_flops


def test_speed_and_length(tiny_params: MakeParams) -> None:
    plan = plan_of(tiny_params(BIG | {"pretrain.epochs": 10, "pretrain.epoch_length": 5}))
    seconds = plan.step_seconds
    assert seconds is not None and plan.flops / seconds == pytest.approx(EFFICIENCY * 989e12)
    assert plan.steps == 50 and plan.days == pytest.approx(50 * seconds / 86400)
    assert plan._replace(gpu=ASSUMED._replace(tflops=None)).days is None
    assert plan._replace(bf16=False).step_seconds is None
    assert plan._replace(steps=None).days is None


def test_an_epoch_of_null_steps_is_a_pass_over_the_images(tiny_params: MakeParams) -> None:
    assert plan_of(tiny_params(BIG), images=1000).steps == 2 * (1000 // 64)


def test_peaks_by_the_name_that_torch_gives() -> None:
    names = {
        "NVIDIA H100 80GB HBM3": 989,
        "NVIDIA H100 PCIe": 756,
        "NVIDIA H200": 989,
        "NVIDIA A100-SXM4-80GB": 312,
        "NVIDIA L40S": 362,
        "NVIDIA GeForce RTX 4090": 165,
        "NVIDIA GeForce RTX 4090 Laptop GPU": None,
        "Tesla T4": None,
    }
    assert {name: peak_tflops(name) for name in names} == names
