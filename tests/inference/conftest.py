"""A small saved model, and builders of images and tars that it can look at."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from franca.models import random_model, save_model
from tests.conftest import MakeParams, MakeTar

Picture = Callable[..., bytes]


@pytest.fixture(scope="session")
def model_folder(tiny_params: MakeParams, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 32 x 32 pixels in patches of 8, 32 dimensions, 2 blocks of 2 heads."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_model(random_model(tiny_params().base), folder)
    return folder


def _picture(seed: int, size: tuple[int, int] = (48, 40), format: str = "PNG") -> bytes:
    """A mosaic of 6 x 5 colors, (width, height) pixels."""
    colors = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(colors).resize(size, Image.Resampling.NEAREST).save(buffer, format)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def picture() -> Picture:
    return _picture


@pytest.fixture
def photos(tmp_path: Path, make_tar: MakeTar) -> Path:
    """Five images: two in folders, two in a tar beside a text and a hidden file, one at the top."""
    folder = tmp_path / "photos"
    for seed, name in enumerate(("b/x.png", "a/b/y.JPG")):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_bytes(_picture(seed, format="PNG" if name.endswith("png") else "JPEG"))
    (folder / "c.bmp").write_bytes(_picture(2, (33, 90), "BMP"))
    (folder / "notes.txt").write_text("no image")
    files = {"./2.png": _picture(3), "1.png": _picture(4), "._1.png": b"junk", "1.json": b"{}"}
    make_tar(folder / "a.tar", files)
    return folder
