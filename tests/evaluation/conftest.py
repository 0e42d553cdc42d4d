"""A prepared store of a few images whose class is their color, and a dense set whose halves are."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from franca.data.store.pack import PackWriter
from franca.data.store.prepared import SPLITS, SplitName, Store
from franca.files import write_json

MakeStore = Callable[..., Store]
COLORS = ((200, 60, 60), (60, 190, 70), (70, 80, 210))
COUNTS: dict[SplitName, int] = {"train": 24, "val": 9, "test": 12}
DENSE_COUNTS: dict[SplitName, int] = {"train": 4, "val": 2, "test": 3}


def _png(pixels: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _noisy(color: Any, height: int, width: int, generator: np.random.Generator) -> Any:
    pixels = np.asarray(color) + generator.normal(0, 12, (height, width, 3))
    return pixels.clip(0, 255).astype(np.uint8)


def _make_store(
    folder: Path,
    *,
    labeled: tuple[SplitName, ...] = SPLITS,
    counts: dict[SplitName, int] = COUNTS,
    dense_counts: dict[SplitName, int] | None = DENSE_COUNTS,
    colored: bool = True,
    kinds: dict[SplitName, int] | None = None,
    mask_kinds: int = 2,
) -> Store:
    """Images of 3 classes, or as many as `kinds` has; masks of 2 classes, left and right, an unlabeled stripe between.

    With `mask_kinds` 1 the right is unlabeled, too.
    """
    generator = np.random.default_rng(0)
    with PackWriter(folder / "images") as images:
        for split, count in counts.items():
            for index in range(count):
                kind = index % (kinds or {}).get(split, len(COLORS))
                content = _png(_noisy(COLORS[kind] if colored else (128, 128, 128), 40, 48, generator))
                images.add(content, label=kind if split in labeled else -1, split=SPLITS.index(split))
        images.close()
    if dense_counts is not None:
        with PackWriter(folder / "dense/images") as images, PackWriter(folder / "dense/masks") as masks:
            for split, count in dense_counts.items():
                for _ in range(count):
                    pixels, mask = _noisy(COLORS[0], 64, 96, generator), np.zeros((64, 96), dtype=np.uint8)
                    pixels[:, 48:] = _noisy(COLORS[2], 64, 48, generator)
                    mask[:, 48:] = 1 if mask_kinds == 2 else 255
                    mask[:, 40:56] = 255
                    images.add(_png(pixels), split=SPLITS.index(split))
                    masks.add(_png(mask))
            images.close()
            masks.close()
    write_json(
        folder / "manifest.json",
        {
            "classes": ["red", "green", "blue"] if labeled else [],
            "channels": {"mean": [0.43, 0.43, 0.45], "std": [0.25, 0.23, 0.25]},
            "dense": {"classes": ["left", "right"], "ignore": 255} if dense_counts is not None else None,
        },
    )
    return Store(folder)


@pytest.fixture(scope="session")
def make_store() -> MakeStore:
    return _make_store
