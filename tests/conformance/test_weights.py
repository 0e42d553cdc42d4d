"""Cases 09a, 09b, 09c and 14: official checkpoints, from the file to features and from our names to theirs."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from franca import presets
from franca.formats.importing import run
from franca.formats.official import (
    architecture_of,
    build_model,
    from_official,
    state_of,
    to_official,
    to_official_release,
)
from franca.models import FrancaModel, load_model
from tests.conformance.conftest import DEVICE, Case

WITHIN = {"rtol": 1e-5, "atol": 1e-5}
AS_GIVEN = (0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255)
"""Statistics by which the model takes its images as they are."""


def imported(case: Case, folder: Path) -> FrancaModel:
    """Import the case's weights as a release has them by the command's function; return the model on `DEVICE`."""
    state = {}
    for name in case.names("weight/"):
        chunked = re.sub(r"^blocks\.(\d+)\.(?!\d)", lambda match: f"blocks.{int(match[1]) // 2}.{match[1]}.", name)
        state[f"module.backbone.{chunked}"] = case[f"weight/{name}"]
    state["module.dino_head.mlps.0.0.weight"] = torch.zeros(2)
    torch.save({"teacher": state}, folder / "checkpoint.pth")
    run(
        [folder / "checkpoint.pth"],
        folder / "model",
        num_heads=case.parameters["num_heads"],
        mean=AS_GIVEN[0],
        std=AS_GIVEN[1],
    )
    return load_model(folder / "model").to(DEVICE)


def outputs(case: Case) -> Iterator[tuple[str, Tensor]]:
    """Prefix of the expected tensors, and the images that they belong to, of every size without masks."""
    for name in case.names("expected/"):
        if match := re.fullmatch(r"((?:native|img_\d+x\d+)\.)?x_norm_clstoken", name):
            prefix = match[1] or ""
            yield prefix, case[f"input/{prefix.rstrip('.') or 'img'}"]


def check_features(case: Case, folder: Path) -> None:
    model = imported(case, folder)
    assert model.image_size == case.parameters["img_size"]
    registers = case.parameters.get("num_register_tokens", 0)
    for prefix, images in outputs(case):
        # The vectors' images are normalized already; the model itself takes uint8 images.
        tokens = model.backbone.forward_features(images)
        for name, got in (
            ("clstoken", tokens[:, 0]),
            ("patchtokens", tokens[:, 1 + registers :]),
            ("regtokens", tokens[:, 1 : 1 + registers]),
        ):
            if name != "regtokens" or registers:
                expected = case[f"expected/{prefix}x_norm_{name}"]
                case.compare(f"imported: {prefix}x_norm_{name}", got, expected, WITHIN)


@pytest.mark.case("09a_vit")
def test_features_of_an_imported_release(case: Case, tmp_path: Path) -> None:
    check_features(case, tmp_path)


@pytest.mark.case("09b_vit_chunked_keys")
def test_features_of_an_imported_release_in_chunks(case: Case, tmp_path: Path) -> None:
    check_features(case, tmp_path)


@pytest.mark.case("09c_vit_variant")
def test_features_of_an_imported_release_with_registers(case: Case, tmp_path: Path) -> None:
    check_features(case, tmp_path)


@pytest.mark.case("14_official_backbone_keys")
def test_names_and_shapes_of_the_released_sizes_both_ways(case: Case) -> None:
    bases = [presets.load(preset).base for preset in presets.names()]
    for name, about in case.json().items():
        for prefix, keys in (("backbone.", "checkpoint_keys"), ("", "model_keys")):
            state = {prefix + key: torch.empty(shape, device="meta") for key, shape in about[keys].items()}
            found = from_official(state_of({"teacher": state}, name), name)
            architecture, image_size = architecture_of(found.backbone, name, None)
            sizes = architecture.depth, architecture.num_heads, architecture.embed_dim
            assert sizes == tuple(about["block_settings"][key] for key in ("depth", "heads", "embed_dim"))
            assert image_size == about["img_size_default"]
            # A preset of the same width and image size is the same architecture.
            for base in bases:
                if (base.backbone.embed_dim, base.image_size) == (architecture.embed_dim, image_size):
                    assert base.backbone == architecture

            model = build_model(found.backbone, name, None, *AS_GIVEN)
            assert sum(value.numel() for value in model.backbone.parameters()) == about["n_parameters"]
            back = to_official_release(model)["teacher"] if prefix else to_official(model)
            assert {key: tuple(value.shape) for key, value in back.items()} == {
                key: tuple(value.shape) for key, value in state.items()
            }
            case.note(0.0, f"{name}: names and shapes")
