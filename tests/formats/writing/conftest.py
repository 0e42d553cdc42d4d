"""A small model to export, and its card's own lines, run as a reader would."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from franca.formats.export import export
from franca.models.model import Architecture, Features, FrancaModel
from franca.params import Backbone

SIZE = 32
KINDS = [("swiglu", 0), ("swiglu", 4), ("mlp", 0), ("mlp", 3)]
"""Feed-forward layer and number of registers."""
CHOICES: list[dict[str, Any]] = [
    {"keep_position": True},
    {},
    {"keep_position": True, "dim": 8},
    {"dim": 8},
]
"""With and without RASA, truncated and whole."""

MakeModel = Callable[..., FrancaModel]
Exported = Callable[..., tuple[Path, Features]]


def make_image(size: int = SIZE) -> Image.Image:
    pixels = np.random.default_rng(0).integers(256, size=(size, size, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def pixels_of(image: Image.Image) -> Tensor:
    """uint8 (1, 3, H, W)."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]


def perturbed(architecture: Architecture, image_size: int = SIZE) -> FrancaModel:
    """A model no weight of which is near zero or one, with two planes of position."""
    model = FrancaModel(architecture, image_size, (0.5, 0.4, 0.3), (0.1, 0.2, 0.3))
    generator = torch.Generator().manual_seed(0)
    for parameter in model.backbone.parameters():
        parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    model.remove_position(torch.randn(2, 2, model.width, generator=generator))
    model.digest = "0123456789abcdef" * 4
    return model


@pytest.fixture
def make_model() -> MakeModel:
    def make(ffn: str = "swiglu", registers: int = 0, position_resampling: str = "offset") -> FrancaModel:
        about = {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "ffn": ffn, "registers": registers}
        about |= {"layer_scale": 0.5, "position_resampling": position_resampling}
        return perturbed(Backbone.model_validate(about))

    return make


def run_card(folder: Path, image: Image.Image) -> dict[str, Any]:
    """The names that the Python lines of a folder's card leave, run from the folder above."""
    code = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    assert code is not None
    names: dict[str, Any] = {"image": image}
    with torch.no_grad():
        exec(code[1], names)
    return names


@pytest.fixture
def exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Exported:
    """Export a model, run the card's lines on an image, and give the folder and the features.

    The current folder is the one that the card's lines are for.
    """
    monkeypatch.chdir(tmp_path)

    def run(
        model: FrancaModel, format: str, image: Image.Image | None = None, **choices: Any
    ) -> tuple[Path, Features]:
        folder = tmp_path / f"{format}-{len(list(tmp_path.iterdir()))}"
        export(model, format, folder, **choices)
        names = run_card(folder, image or make_image(choices.get("image_size") or SIZE))
        return folder, Features(torch.as_tensor(names["pooled"]), torch.as_tensor(names["patches"]))

    return run


def expected(model: FrancaModel, image: Image.Image, dim: int | None = None, keep_position: bool = False) -> Features:
    """What the model itself says of an image, with the choices of an export."""
    pooled, patches = model(pixels_of(image))
    if keep_position:
        tokens = model.forward_features(pixels_of(image))[:, model.backbone.num_prefix_tokens :]
        patches = tokens.unflatten(1, patches.shape[1:3])
    return Features(pooled[:, :dim], patches[..., :dim])


def assert_same(got: Features, wanted: Features, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(got.pooled, wanted.pooled, atol=tolerance, rtol=tolerance)
    patches = got.patches.reshape(wanted.patches.shape)
    torch.testing.assert_close(patches, wanted.patches, atol=tolerance, rtol=tolerance)
