"""Official tensor names: conversion in both directions, prefixes and containers, and invalid checkpoints."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from franca import presets
from franca.errors import FrancaError
from franca.formats.official import build_model
from franca.formats.official_keys import (
    from_official,
    rasa_planes,
    rasa_to_official,
    to_official,
    to_official_release,
)
from franca.formats.state_dict import find_state
from franca.models import FrancaModel
from franca.params import resolve
from tests.formats.conftest import MEAN, STD, MakeModel

Change = Callable[[dict[str, Tensor]], Any]


def rebuilt(checkpoint: Any, num_heads: int | None = None) -> FrancaModel:
    found = from_official(find_state(checkpoint, "x.pth"), "x.pth")
    return build_model(found.backbone, "x.pth", num_heads, MEAN, STD)


def check_same(got: FrancaModel, expected: FrancaModel) -> None:
    assert got.architecture == expected.architecture and got.image_size == expected.image_size
    ours = expected.backbone.state_dict()
    assert got.backbone.state_dict().keys() == ours.keys()
    for key, value in got.backbone.state_dict().items():
        assert torch.equal(value, ours[key]), key


def places_of(release: dict[str, dict[str, Tensor]]) -> set[str]:
    """Return CHUNK.BLOCK of each block."""
    found = (re.match(r"backbone\.blocks\.(\d+\.\d+)\.", key) for key in release["teacher"])
    return {match[1] for match in found if match}


@pytest.mark.parametrize("ffn", ["mlp", "swiglu"])
@pytest.mark.parametrize(("registers", "resampling"), [(0, "offset"), (3, "antialias")])
def test_round_trip_is_exact(make_official_model: MakeModel, ffn: str, registers: int, resampling: str) -> None:
    model = make_official_model(ffn=ffn, registers=registers, position_resampling=resampling)
    for checkpoint in (to_official(model), to_official_release(model)):
        check_same(rebuilt(checkpoint), model)


def test_names_of_the_release(make_official_model: MakeModel) -> None:
    flat, release = (
        to_official(make_official_model(registers=1)),
        to_official_release(make_official_model(registers=1)),
    )
    assert {"register_tokens", "mask_token", "blocks.4.mlp.w12.weight", "blocks.4.mlp.w3.bias"} < flat.keys()
    # 5 blocks are five chunks of 5 // 4: the official code has one more than it is asked for.
    assert places_of(release) == {f"{block}.{block}" for block in range(5)}
    assert len(release["teacher"]) == len(flat) and all(key.startswith("backbone.") for key in release["teacher"])
    assert places_of(to_official_release(make_official_model(depth=8))) == {
        f"{block // 2}.{block}" for block in range(8)
    }
    assert places_of(to_official_release(make_official_model(depth=2))) == {"0.0", "1.1"}


@pytest.mark.parametrize("prefix", ["", "module.", "backbone.", "module.backbone.", "backbone.module."])
@pytest.mark.parametrize("owners", [(), ("teacher",), ("model",), ("state_dict",), ("model", "teacher")])
def test_every_prefix_and_container(make_official_model: MakeModel, prefix: str, owners: tuple[str, ...]) -> None:
    model = make_official_model()
    checkpoint: dict[str, Any] = {prefix + key: value for key, value in to_official(model).items()}
    for owner in reversed(owners):
        checkpoint = {owner: checkpoint, "epoch": 3}
    check_same(rebuilt(checkpoint), model)


def test_heads_are_left_out_and_rasa_is_kept(make_official_model: MakeModel) -> None:
    model = make_official_model(rounds=3)
    state = to_official_release(model)["teacher"]
    state |= {f"dino_head.mlps.{level}.0.weight": torch.zeros(2) for level in range(5)}
    state |= {f"module.ibot_head.last_layers.{level}.weight_g": torch.zeros(2) for level in range(2)}
    state |= {f"module.rasa_head.{key}": value for key, value in rasa_to_official(model).items()}
    found = from_official(find_state({"teacher": state}, "x.pth"), "x.pth")
    assert dict(found.left_out) == {"dino_head": 5, "ibot_head": 2}
    assert found.planes is not None and torch.equal(found.planes, model.position_planes)
    assert found.backbone.keys() == model.backbone.state_dict().keys()


def test_without_layer_scale_its_gamma_is_one(make_official_model: MakeModel) -> None:
    model = make_official_model(layer_scale=1.0)
    for block in model.backbone.blocks:
        block.ls1.gamma.fill_(1)
        block.ls2.gamma.fill_(1)
    state = {key: value for key, value in to_official(model).items() if not key.endswith("gamma")}
    check_same(rebuilt(state), model)


def test_half_precision_becomes_float32(make_official_model: MakeModel) -> None:
    half = {key: value.bfloat16() for key, value in to_official(make_official_model()).items()}
    weights = rebuilt(half).backbone.state_dict()
    assert all(value.dtype == torch.float32 for value in weights.values())
    assert torch.equal(weights["cls_token"], half["cls_token"].float())


def test_number_of_attention_heads(make_official_model: MakeModel) -> None:
    model = make_official_model(num_heads=4)
    check_same(rebuilt(to_official(model), num_heads=4), model)
    check_same(rebuilt(to_official(model)), make_official_model(num_heads=1))
    for wrong, message in ((3, r"embed_dim 64 must be .* num_heads 3"), (0, "num_heads: input should be greater")):
        with pytest.raises(FrancaError, match=message):
            rebuilt(to_official(model), num_heads=wrong)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.clear(), "no dictionary of tensors at the top or under teacher, model, state_dict"),
        (lambda s: s.pop("norm.bias"), "the weights do not fit the architecture: missing norm.bias"),
        (lambda s: s.pop("mask_token"), "the weights do not fit the architecture: missing mask_token"),
        (
            lambda s: s.pop("patch_embed.proj.weight"),
            "not a Franca or DINOv2 checkpoint, patch_embed.proj.weight is missing among blocks.0.attn.proj",
        ),
        (lambda s: s.update(extra=torch.zeros(1)), "the weights do not fit the architecture: unexpected extra"),
        (lambda s: s.update({"norm.bias": torch.zeros(5)}), "architecture: norm.bias is (5,), not (64,)"),
        (
            lambda s: s.update({"cls_token": torch.zeros(1, 1, 64, dtype=torch.int8)}),
            "not floating-point: cls_token; quantized",
        ),
        (
            lambda s: s.update({"pos_embed": torch.zeros(1, 16, 64)}),
            "3 channels and 16 positions; only models",
        ),
        (lambda s: s.update({"pos_embed": torch.zeros(17, 64)}), "pos_embed is (17, 64), which does not fit a vision"),
        (lambda s: s.update({"pos_embed": torch.zeros(1, 1, 64)}), "3 channels and 1 positions"),
        (
            lambda s: s.update({"patch_embed.proj.weight": torch.zeros(64, 1, 7, 7)}),
            "1 channels and 17 positions; only models of color images",
        ),
        (
            lambda s: s.update({"patch_embed.proj.weight": torch.zeros(48, 3, 7, 7)}),
            "48 dimensions are no multiple of 64; give the number of heads by --num-heads",
        ),
        (
            lambda s: s.update({"blocks.1000000000.norm1.bias": torch.zeros(64)}),
            "its blocks are not numbered from 0 to 5",
        ),
        (lambda s: s.update({"blocks.0.4.norm1.bias": torch.zeros(64)}), "two tensors are both blocks.4.norm1.bias"),
        (lambda s: s.update({"module.norm.bias": torch.zeros(64)}), "two tensors are both norm.bias"),
        (lambda s: s.pop("blocks.2.ls1.gamma"), "missing blocks.2.ls1.gamma"),
        (
            lambda s: s.update({"rasa_head.x": torch.zeros(2, 64)}),
            "not a RASA head: 1 tensors should be pos_pred.weight",
        ),
    ],
)
def test_each_error_is_one_line(make_official_model: MakeModel, change: Change, message: str) -> None:
    state = to_official(make_official_model())
    change(state)
    with pytest.raises(FrancaError) as caught:
        rebuilt(state)
    line = str(caught.value)
    assert line.startswith("x.pth: ") and message in line and "\n" not in line


def test_other_contents() -> None:
    contents: list[Any] = [torch.zeros(2), [1], None, {"teacher": {}}, {"model": {"lr": 0.1}}, {"teacher": [1]}]
    for content in contents:
        with pytest.raises(FrancaError, match="no dictionary of tensors"):
            find_state(content, "x.pth")


@pytest.mark.parametrize("prefix", ["", "module.", "rasa_head.", "module.rasa_head.", "rasa_head.module."])
@pytest.mark.parametrize("rounds", [1, 9, 11])
def test_rasa_round_trip_is_exact(make_official_model: MakeModel, prefix: str, rounds: int) -> None:
    model = make_official_model(rounds=rounds)
    head = rasa_to_official(model)
    assert len(head) == rounds and torch.equal(head["pos_pred.weight"], model.position_planes[-1])
    assert torch.equal(rasa_planes({prefix + key: value for key, value in head.items()}, "x"), model.position_planes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("pos_pred.weight"), "not a RASA head: 2 tensors should be pre_pos_layers.0.weight, pos_pred"),
        (lambda s: s.pop("pre_pos_layers.0.weight"), "not pos_pred.weight, pre_pos_layers.1.weight"),
        (lambda s: s.update({"pos_pred.bias": torch.zeros(2)}), "not a RASA head: 4 tensors should be"),
        (lambda s: s.update({"pos_pred.weight": torch.zeros(1, 64)}), "its layers are [(1, 64), (2, 64)], not all"),
        (lambda s: s.update({"module.pos_pred.weight": torch.zeros(2, 64)}), "two tensors are both pos_pred.weight"),
    ],
)
def test_each_error_of_a_rasa_head_is_one_line(make_official_model: MakeModel, change: Change, message: str) -> None:
    head = rasa_to_official(make_official_model(rounds=3))
    change(head)
    with pytest.raises(FrancaError) as caught:
        rasa_planes(head, "rasa.pth")
    line = str(caught.value)
    assert line.startswith("rasa.pth: ") and message in line and "\n" not in line


def test_models_without_official_form(make_official_model: MakeModel) -> None:
    with pytest.raises(FrancaError, match="the model has no planes of RASA"):
        rasa_to_official(make_official_model())
    with pytest.raises(FrancaError, match="test_vit: a model of timm has no official form"):
        to_official_release(FrancaModel("test_vit", 32, MEAN, STD))


@pytest.mark.parametrize("name", ["vitb14-in21k-518", "vitl14-in21k", "vitg14-in21k"])
def test_round_trip_of_the_presets_of_released_sizes(name: str) -> None:
    base = resolve(presets.load(name)).base
    with torch.device("meta"):
        model = FrancaModel(base.backbone, base.image_size, base.mean, base.std)
    again = rebuilt(to_official_release(model))
    assert (again.architecture, again.image_size) == (base.backbone, base.image_size)
    shapes = {key: value.shape for key, value in model.backbone.state_dict().items()}
    assert {key: value.shape for key, value in again.backbone.state_dict().items()} == shapes


def test_tied_weights_are_kept_apart(make_official_model: MakeModel) -> None:
    state = to_official(make_official_model())
    state["norm.bias"] = state["norm.weight"]
    tied = rebuilt(state).backbone
    assert torch.equal(tied.norm.bias, tied.norm.weight) and tied.norm.bias.data_ptr() != tied.norm.weight.data_ptr()
