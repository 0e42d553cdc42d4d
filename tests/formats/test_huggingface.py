from pathlib import Path
from typing import Any

import pytest
import torch

from franca.errors import FrancaError
from franca.models.model import normalize
from tests.formats.conftest import (
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


def load(folder: Path, **options: Any) -> Any:
    from transformers import AutoModel  # takes seconds, and not every process of pytest-xdist runs these tests

    return AutoModel.from_pretrained(folder, **options)


@pytest.mark.parametrize("choices", CHOICES)
@pytest.mark.parametrize(("ffn", "registers"), KINDS)
def test_transformers_has_the_same_features(
    make_model: MakeModel, exported: Exported, ffn: str, registers: int, choices: dict[str, Any]
) -> None:
    model = make_model(ffn, registers)
    folder, features = exported(model, "huggingface", **choices)
    assert_same(features, expected(model, make_image(), **choices))
    assert (folder / "patch_projection.safetensors").exists() is (choices != {"keep_position": True})


def test_every_weight_is_loaded(make_model: MakeModel, exported: Exported) -> None:
    model = make_model(registers=4)
    folder, _ = exported(model, "huggingface")
    loaded, report = load(folder, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    assert type(loaded).__name__ == "Dinov2WithRegistersModel"
    count = sum(parameter.numel() for parameter in loaded.parameters())
    assert count == sum(parameter.numel() for parameter in model.backbone.parameters())


def test_masked_patches(make_model: MakeModel, exported: Exported) -> None:
    model = make_model()
    folder, _ = exported(model, "huggingface")
    pixels = normalize(pixels_of(make_image()) / 255, model.mean, model.std)
    masks = torch.arange(16)[None] % 3 == 0
    outputs = load(folder).eval()(pixels, bool_masked_pos=masks)
    wanted = model.backbone.forward_features(pixels, masks)
    torch.testing.assert_close(outputs.last_hidden_state, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("registers", "position_resampling"), [(0, "offset"), (0, "antialias"), (4, "antialias")])
def test_other_sizes(
    make_model: MakeModel,
    exported: Exported,
    capsys: pytest.CaptureFixture[str],
    registers: int,
    position_resampling: str,
) -> None:
    model, image = make_model("mlp", registers, position_resampling), make_image(48)
    folder, _ = exported(model, "huggingface", keep_position=True)
    noted = (
        "the model's position resampling: features of sizes other than 32 px differ slightly"
        in capsys.readouterr().out
    )
    pixels = normalize(pixels_of(image) / 255, model.mean, model.std)
    tokens = load(folder).eval()(pixels).last_hidden_state
    assert torch.allclose(tokens, model.forward_features(pixels_of(image)), atol=1e-5) is not noted
    assert noted is (registers == 0)

    _, features = exported(model, "huggingface", image_size=48)
    assert_same(features, expected(model, image))


def test_the_processor_resizes_and_normalizes(make_model: MakeModel, exported: Exported) -> None:
    from transformers import AutoImageProcessor

    model, image = make_model(), make_image()
    folder, _ = exported(model, "huggingface")
    processor = AutoImageProcessor.from_pretrained(folder)
    pixels = processor(image, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(pixels, normalize(pixels_of(image) / 255, model.mean, model.std), atol=1e-5, rtol=1e-5)
    assert processor(make_image(100).crop((0, 0, 100, 50)), return_tensors="pt")["pixel_values"].shape[-2:] == (32, 32)


def test_other_architectures_are_an_error(exported: Exported) -> None:
    with pytest.raises(
        FrancaError, match=r"huggingface: holds Franca's own architecture, not test_vit; use --format timm"
    ):
        exported(perturbed("test_vit"), "huggingface")
