"""Builders of tiny sources: pictures that no two seeds share, folders and tars of them."""

import io
import itertools
import logging
import os
import shutil
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from matplotlib import cbook
from moto.server import ThreadedMotoServer
from PIL import Image

from franca.params import Prepare
from tests.conftest import write_tar

Picture = Callable[..., bytes]
Build = Callable[..., Path]
MakeParams = Callable[..., Prepare]
Place = Callable[[Path], str]


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


def _make_params(source: Path | str, dense_source: Path | None = None, **changes: Any) -> Prepare:
    values = {"storage": "pack", "val_fraction": 0.2, "test_fraction": 0.2, "duplicate_bits": 2, "max_refused": 0.0}
    dense = str(dense_source) if dense_source else None
    return Prepare.model_validate({"source": str(source), "dense_source": dense, **values, **changes})


def _make_shards(folder: Path, shards: int = 4, images: int = 12) -> Path:
    """Webdataset tars of PNGs with classes, JSON and captions beside them, as img2dataset lays them out."""
    for shard in range(shards):
        members: dict[str, bytes] = {}
        for i in range(images):
            key = f"{shard:05d}{i:04d}"
            members |= {f"{key}.png": _picture((shard, i)), f"{key}.cls": str(i % 3).encode(), f"{key}.json": b"{}"}
        write_tar(folder / f"{shard:05d}.tar", members)
    return folder


@pytest.fixture(scope="session")
def photo() -> Image.Image:
    """A photograph of some hundred pixels a side, from matplotlib's samples."""
    return Image.open(str(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False))).convert("RGB")


@pytest.fixture(scope="session")
def picture() -> Picture:
    return _picture


@pytest.fixture(scope="session")
def make_tree() -> Build:
    return _make_tree


@pytest.fixture(scope="session")
def make_shards() -> Build:
    return _make_shards


@pytest.fixture(scope="session")
def make_params() -> MakeParams:
    return _make_params


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The URL of an S3 server on a free port."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


_numbers = itertools.count()


@pytest.fixture
def s3(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of an empty bucket, with the environment set so that it is reached, or fails at once."""
    for name, value in {
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",
    }.items():
        monkeypatch.setenv(name, value)
    url = f"s3://bucket-{next(_numbers)}"
    put(url, b"")
    return url


def put(url: str, content: bytes | None) -> None:
    """Write a file at a path or URL, a bucket where an S3 URL has no further path; None deletes it."""
    if url.startswith("s3://"):
        method = "DELETE" if content is None else "PUT"
        address = f"{os.environ['AWS_ENDPOINT_URL']}/{url.removeprefix('s3://')}"
        # The server lets nobody without a name overwrite a file, and believes any name.
        name = "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request"
        headers = {"Content-Type": "application/octet-stream", "Authorization": name}
        urllib.request.urlopen(urllib.request.Request(address, content, headers, method=method)).close()
    elif url.startswith("memory://"):
        files = MemoryFileSystem()
        files.pipe_file(url, content) if content is not None else files.rm_file(url)
    else:
        Path(url).write_bytes(content) if content is not None else Path(url).unlink()


@pytest.fixture(params=["disk", "memory", "S3"])
def place(request: pytest.FixtureRequest) -> Place:
    """Puts a folder somewhere and says where: it stays on the disk, or goes to fsspec's memory, or to S3."""
    if request.param == "disk":
        return str
    root = f"memory://{next(_numbers)}" if request.param == "memory" else request.getfixturevalue("s3")

    def move(folder: Path) -> str:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            put(f"{root}/{path.relative_to(folder.parent).as_posix()}", path.read_bytes())
        shutil.rmtree(folder)
        return f"{root}/{folder.name}"

    return move
