from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file

from franca.files import read_json
from franca.models.model import Features, normalize
from tests.formats.writing.conftest import (
    CHOICES,
    KINDS,
    Exported,
    MakeModel,
    assert_same,
    expected,
    make_image,
    perturbed,
    pixels_of,
)


@pytest.mark.parametrize("choices", CHOICES)
@pytest.mark.parametrize(("ffn", "registers"), KINDS)
def test_stock_timm_gives_our_features(
    make_model: MakeModel, exported: Exported, ffn: str, registers: int, choices: dict[str, Any]
) -> None:
    model = make_model(ffn, registers)
    _, features = exported(model, "timm", **choices)
    assert_same(features, expected(model, make_image(), **choices))


def test_a_call_of_the_model(make_model: MakeModel, exported: Exported) -> None:
    model, image = make_model(registers=4), make_image()
    images = normalize(pixels_of(image) / 255, model.mean, model.std)
    for choices in CHOICES[0], CHOICES[2]:
        folder, _ = exported(model, "timm", **choices)
        stock: Any = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        torch.testing.assert_close(stock(images), expected(model, image, **choices).pooled, atol=1e-5, rtol=1e-5)
    folder, _ = exported(model, "timm", dim=8)
    # All tokens without position, by an argument of timm.
    stock = timm.create_model(f"local-dir:{folder}", pretrained=True, global_pool="").eval()
    wanted = expected(model, image, dim=8)
    assert_same(Features(wanted.pooled, stock(images)[:, stock.num_prefix_tokens :]), wanted)
    # Another classifier on top, as those who fine-tune want it.
    stock = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=3)
    assert stock(images).shape == (1, 3)


@pytest.mark.parametrize("position_resampling", ["offset", "antialias"])
def test_other_sizes(
    make_model: MakeModel, exported: Exported, capsys: pytest.CaptureFixture[str], position_resampling: str
) -> None:
    model, image = make_model(position_resampling=position_resampling), make_image(48)
    folder, _ = exported(model, "timm", keep_position=True)
    told = "Franca's resampling of positions: other sizes than 32 px differ a little" in capsys.readouterr().out
    pixels = normalize(pixels_of(image) / 255, model.mean, model.std)
    stock: Any = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    tokens = stock.forward_features(pixels)
    wanted = model.forward_features(pixels_of(image))
    assert torch.allclose(tokens, wanted, atol=1e-5) is not told
    assert told is (position_resampling == "offset")

    _, features = exported(model, "timm", image_size=48)
    assert_same(features, expected(model, image))


@pytest.mark.parametrize("name", ["test_vit", "test_vit2", "test_vit3", "vit_tiny_patch16_dinov3_qkvb"])
@pytest.mark.parametrize("choices", CHOICES)
def test_models_of_timm(exported: Exported, name: str, choices: dict[str, Any]) -> None:
    model = perturbed(name)
    folder, features = exported(model, "timm", **choices)
    assert_same(features, expected(model, make_image(), **choices), 1e-4)
    assert read_json(folder / "config.json")["architecture"] == name
    assert {path.name for path in folder.iterdir()} == {"model.safetensors", "config.json", "README.md"}


def test_what_the_folder_says(make_model: MakeModel, exported: Exported) -> None:
    folder, _ = exported(make_model(registers=4), "timm", dim=8)
    assert {path.name for path in folder.iterdir()} == {"model.safetensors", "config.json", "README.md"}
    config = read_json(folder / "config.json")
    assert (config["architecture"], config["num_classes"]) == ("vit_giant_patch14_reg4_dinov2", 8)
    about = config["pretrained_cfg"]
    assert (about["mean"], about["std"], about["input_size"]) == ([0.5, 0.4, 0.3], [0.1, 0.2, 0.3], [3, 32, 32])
    # Nothing of the stock weights that go by that name.
    assert not about.keys() & {"url", "hf_hub_id", "license"} and "lvd142m" not in str(config)
    assert load_file(folder / "model.safetensors")["head.weight"].shape == (8, 32)
