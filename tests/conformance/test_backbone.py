"""Cases 09a, 09b, 09c, 15 and 16: the vision transformer. Its checkpoints' names and files are in test_weights."""

import re
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from franca.models.backbone import Backbone, resize_positions
from franca.models.stochastic_depth import Kept, kept_first
from franca.params import Backbone as BackboneParams
from tests.conformance.conftest import Case


def make_backbone(about: dict[str, Any], drop_path: float = 0.0) -> Backbone:
    params = BackboneParams.model_construct(
        patch_size=about["patch_size"],
        embed_dim=about["embed_dim"],
        depth=about["depth"],
        num_heads=about["num_heads"],
        ffn="mlp" if about["ffn_layer"] == "mlp" else "swiglu",
        registers=about.get("num_register_tokens", 0),
        layer_scale=1.0,
        position_resampling="antialias" if about.get("interpolate_antialias") else "offset",
    )
    return Backbone(params, about["img_size"], drop_path)


def official_backbone(case: Case) -> Backbone:
    """The case's backbone with its weights; LayerScale of 1 where it has none."""
    backbone = make_backbone(case.parameters)
    gammas = {key: torch.ones_like(value) for key, value in backbone.state_dict().items() if key.endswith("gamma")}
    backbone.load_state_dict(({} if case.parameters.get("layerscale", True) else gammas) | case.weights())
    return backbone.eval()


def check_tokens(case: Case, prefix: str, tokens: Tensor, registers: int = 0) -> None:
    case.check(f"{prefix}x_norm_clstoken", tokens[:, 0])
    case.check(f"{prefix}x_norm_patchtokens", tokens[:, 1 + registers :])
    if registers:
        case.check(f"{prefix}x_norm_regtokens", tokens[:, 1 : 1 + registers])


@pytest.mark.case("09a_vit")
def test_native_size_with_and_without_masks(case: Case) -> None:
    backbone = official_backbone(case)
    prenorm: list[Tensor] = []
    backbone.norm.register_forward_pre_hook(lambda _, arguments: prenorm.append(arguments[0]))
    check_tokens(case, "native.", backbone.forward_features(case["input/native"]))
    case.check("native.x_prenorm", prenorm[0])
    check_tokens(case, "native_masked.", backbone.forward_features(case["input/native"], case["input/native_masks"]))


@pytest.mark.case("09a_vit")
def test_interpolated_positions_of_other_sizes(case: Case) -> None:
    backbone = official_backbone(case)
    sizes = [match.group(1) for name in case.names("input/img_") if (match := re.fullmatch(r"(\d+x\d+)", name))]
    assert sizes
    for size in sizes:
        height, width = (int(side) // case.parameters["patch_size"] for side in size.split("x"))
        case.check(f"pos_embed_{size}", backbone.positions(height, width))
        check_tokens(case, f"img_{size}.", backbone.forward_features(case[f"input/img_{size}"]))


@pytest.mark.case("09b_vit_chunked_keys")
def test_weights_in_chunks_and_small_tokens(case: Case) -> None:
    backbone = official_backbone(case)
    check_tokens(case, "", backbone.forward_features(case["input/img"]))
    check_tokens(case, "masked.", backbone.forward_features(case["input/img"], case["input/masks"]))


@pytest.mark.case("09a_vit")
def test_intermediate_blocks(case: Case) -> None:
    check_intermediates(case, official_backbone(case))


@pytest.mark.case("09b_vit_chunked_keys")
def test_intermediate_blocks_of_chunks(case: Case) -> None:
    check_intermediates(case, official_backbone(case))


def check_intermediates(case: Case, backbone: Backbone) -> None:
    """Compare the official `get_intermediate_layers` of every form that the case has."""
    names = case.names("expected/intermediate_")
    named = (re.search(r"img_\d+x\d+", case.meaning(f"intermediate_{name}")) for name in names)
    images = case["input/" + next((match[0] for match in named if match), "img")]
    groups = {name.partition(".")[0] for name in names}
    assert groups
    for group in groups:
        last = re.fullmatch(r"last(\d+)_normed", group)
        assert last or group == "first_last_raw"
        blocks = backbone.forward_intermediates(
            images,
            indices=int(last[1]) if last else [0, len(backbone.blocks) - 1],
            return_prefix_tokens=True,
            norm=bool(last),
            intermediates_only=True,
        )
        for index, block in enumerate(blocks):
            patches, prefix = cast(tuple[Tensor, Tensor], block)
            name = f"intermediate_{group}.{index}"
            if f"{group}.{index}" in names:
                case.check(name, patches.flatten(2).transpose(1, 2))
            else:
                case.check(f"{name}.patches", patches)
                case.check(f"{name}.cls", prefix[:, 0])


@pytest.mark.case("09c_vit_variant")
def test_plain_mlp_registers_and_antialiased_positions(case: Case) -> None:
    backbone = official_backbone(case)
    height, width = (side // case.parameters["patch_size"] for side in case["input/img"].shape[-2:])
    case.check("pos_embed", backbone.positions(height, width))
    tokens = backbone.forward_features(case["input/img"])
    check_tokens(case, "", tokens, case.parameters["num_register_tokens"])


@pytest.mark.case("15_stochastic_depth")
def test_block_with_the_recorded_samples_kept(case: Case) -> None:
    about = case.parameters
    shape = {"patch_size": 1, "img_size": 1, "embed_dim": about["dim"], "depth": 1}
    block = make_backbone(about | shape).train().blocks[0]
    block.load_state_dict(case.weights())
    for index, x in enumerate(case.levels("input/x")):

        def keep(samples: Tensor, count: int = len(x)) -> Kept:
            rest = [place for place in range(count) if place not in samples.tolist()]
            order = torch.cat([samples, torch.tensor(rest, dtype=torch.int64)])
            return kept_first(order, order.argsort(), about["drop_path"])

        kept = tuple(keep(case[f"input/kept_{branch}.{index}"]) for branch in ("attn", "ffn"))
        case.check(f"out.{index}", block([x], [kept])[0])


@pytest.mark.case("16_highres_pos_embed")
def test_positions_resized_to_train_at_another_size(case: Case) -> None:
    resized = resize_positions(case["input/pos_embed"], case.parameters["target_side"])
    case.check("pos_embed_resized", resized)
