"""Small models with distinct weights, and functions that export them and run the example of their model card."""

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

MEAN, STD = (0.5, 0.4, 0.3), (0.1, 0.2, 0.3)

MakeModel = Callable[..., FrancaModel]
Exported = Callable[..., tuple[Path, Features]]


def make_image(size: int = SIZE) -> Image.Image:
    pixels = np.random.default_rng(0).integers(256, size=(size, size, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def pixels_of(image: Image.Image) -> Tensor:
    """uint8 (1, 3, H, W)."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]


def perturbed(architecture: Architecture, image_size: int = SIZE) -> FrancaModel:
    """Return a model with random changes of all weights, so that none is 0 or 1, and two planes of RASA."""
    model = FrancaModel(architecture, image_size, MEAN, STD)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.backbone.parameters():
        parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    model.remove_position(torch.randn(2, 2, model.width, generator=generator))
    model.digest = "0123456789abcdef" * 4
    return model


@pytest.fixture
def make_model() -> MakeModel:
    """Return a function that makes a model of 32 dimensions, 2 blocks and 32 px with two planes of RASA."""

    def make(ffn: str = "swiglu", registers: int = 0, position_resampling: str = "offset") -> FrancaModel:
        about = {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "ffn": ffn, "registers": registers}
        about |= {"layer_scale": 0.5, "position_resampling": position_resampling}
        return perturbed(Backbone.model_validate(about))

    return make


def _make_official_model(rounds: int = 0, **changes: object) -> FrancaModel:
    about = {
        "patch_size": 7,
        "embed_dim": 64,
        "depth": 5,
        "num_heads": 1,
        "ffn": "swiglu",
        "registers": 0,
        "layer_scale": 1e-5,
        "position_resampling": "offset",
    }
    model = FrancaModel(Backbone.model_validate(about | changes), 28, MEAN, STD)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.backbone.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) / 10)
    model.remove_position(torch.randn(rounds, 2, 64, generator=generator))
    return model


@pytest.fixture(scope="session")
def make_official_model() -> MakeModel:
    """Return a function that makes a model of 64 dimensions, 5 blocks and 28 px.

    It takes the number of RASA planes, and changes of the architecture by keyword.
    """
    return _make_official_model


def run_card(folder: Path, image: Image.Image) -> dict[str, Any]:
    """Run the Python example of a folder's card and return its variables; the current folder must be the parent."""
    code = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    assert code is not None
    names: dict[str, Any] = {"image": image}
    with torch.no_grad():
        exec(code[1], names)
    return names


@pytest.fixture
def exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Exported:
    """Return a function that exports a model, runs the card's example on an image, and returns folder and features.

    The current folder is the parent of the exported folder.
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
    """Return the features of the model itself for an image, with the options of an export."""
    pooled, patches = model(pixels_of(image))
    if keep_position:
        tokens = model.forward_features(pixels_of(image))[:, model.backbone.num_prefix_tokens :]
        patches = tokens.unflatten(1, patches.shape[1:3])
    return Features(pooled[:, :dim], patches[..., :dim])


def assert_same(got: Features, wanted: Features, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(got.pooled, wanted.pooled, atol=tolerance, rtol=tolerance)
    patches = got.patches.reshape(wanted.patches.shape)
    torch.testing.assert_close(patches, wanted.patches, atol=tolerance, rtol=tolerance)
