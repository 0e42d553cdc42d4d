"""Stores of generated images, made by the prepare stage."""

from pathlib import Path

import numpy as np
from PIL import Image

from franca.data.ingest.prepare import prepare
from franca.data.store.prepared import Store
from franca.params import Params

CLASSES = {"red": (200, 80, 80), "green": (80, 200, 80), "blue": (80, 80, 200)}


def make_store(folder: Path, params: Params, count: int, size: tuple[int, int], suffix: str) -> Store:
    """Generate `count` images of `size` (width, height) in three classes and prepare them in `folder`/prepared."""
    rng = np.random.default_rng(0)
    names = list(CLASSES)
    for number in range(count):
        name = names[number % len(names)]
        path = folder / "images" / name / f"{number}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        _picture(rng, CLASSES[name], size).save(path)
    changes = {"source": str(folder / "images"), "val_fraction": 0.2, "test_fraction": 0.1, "duplicate_bits": 0}
    prepare(params.prepare.model_copy(update=changes), folder / "prepared", threads=params.runtime.threads)
    return Store(folder / "prepared")


def _picture(rng: np.random.Generator, color: tuple[int, int, int], size: tuple[int, int]) -> Image.Image:
    """Return smooth shapes around a color with some grain: as a JPEG it has the size of a photograph."""
    coarse = np.clip(rng.normal(color, 60, (9, 12, 3)), 0, 255).astype(np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC))
    grain = rng.integers(-20, 21, smooth.shape, dtype=np.int16)
    return Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8))
