from typing import Any

import pytest
import torch

from franca.models import load_model
from tests.formats.writing.conftest import (
    CHOICES,
    Exported,
    MakeModel,
    assert_same,
    expected,
    make_image,
    perturbed,
    pixels_of,
)


@pytest.mark.parametrize("choices", CHOICES)
def test_our_own_folder(
    make_model: MakeModel, exported: Exported, capsys: pytest.CaptureFixture[str], choices: dict[str, Any]
) -> None:
    model = make_model(registers=4)
    folder, features = exported(model, "safetensors", **choices)
    assert_same(features, expected(model, make_image(), **choices), 0)
    again = load_model(folder)
    assert again.embed_dim == choices.get("dim", 32)
    assert torch.equal(again.backbone.mask_token, model.backbone.mask_token)
    left = "not in this format: RASA: left out as --keep-position asks\n" if choices.get("keep_position") else ""
    assert capsys.readouterr().out == f"{folder}: written, format safetensors\n{left}"


@pytest.mark.parametrize("position_resampling", ["offset", "antialias"])
def test_positions_of_another_size(make_model: MakeModel, exported: Exported, position_resampling: str) -> None:
    model, image = make_model(registers=4, position_resampling=position_resampling), make_image(48)
    folder, features = exported(model, "safetensors", image_size=48)
    assert_same(features, expected(model, image))
    assert load_model(folder).image_size == 48
    assert f"positions of the native {model.image_size} px" in (folder / "README.md").read_text()


def test_positions_of_a_model_of_timm(exported: Exported) -> None:
    model, image = perturbed("test_vit2"), make_image(64)
    folder, features = exported(model, "safetensors", image_size=64)
    assert_same(features, expected(model, image))
    assert torch.equal(load_model(folder)(pixels_of(image)).pooled, features.pooled)
