"""Builders of tiny sources: pictures that no two seeds share, folders and tars of them."""

import io
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from franca.params import Prepare

Picture = Callable[..., bytes]
MakeTree = Callable[[Path, Mapping[str, bytes]], Path]
MakeTar = Callable[[Path, Mapping[str, bytes]], Path]
MakeParams = Callable[..., Prepare]


def _picture(
    seed: int | tuple[int, ...], size: tuple[int, int] = (24, 20), format: str = "PNG", **options: Any
) -> bytes:
    """A mosaic of 8 x 7 colors, (width, height) pixels."""
    colors = np.random.default_rng(seed).integers(0, 256, (7, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(colors).resize(size, Image.Resampling.NEAREST).save(buffer, format, **options)
    return buffer.getvalue()


def _make_tree(folder: Path, files: Mapping[str, bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def _make_tar(path: Path, files: Mapping[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def _make_params(source: Path | str, dense_source: Path | None = None, **changes: Any) -> Prepare:
    values = {"storage": "pack", "val_fraction": 0.2, "test_fraction": 0.2, "duplicate_bits": 2, "max_refused": 0.0}
    dense = str(dense_source) if dense_source else None
    return Prepare.model_validate({"source": str(source), "dense_source": dense, **values, **changes})


@pytest.fixture(scope="session")
def picture() -> Picture:
    return _picture


@pytest.fixture(scope="session")
def make_tree() -> MakeTree:
    return _make_tree


@pytest.fixture(scope="session")
def make_tar() -> MakeTar:
    return _make_tar


@pytest.fixture(scope="session")
def make_params() -> MakeParams:
    return _make_params
