"""Embeddings of all images of a folder, in one Parquet file."""

import csv
import io
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Literal, NamedTuple, Self

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from pyarrow import parquet
from torch import Tensor
from tqdm import tqdm

from franca import hub
from franca.data.ingest.sources import list_ignored
from franca.data.store.files.names import as_text, printable
from franca.data.store.images.decode import strict_decoding
from franca.errors import FrancaError, Stopped
from franca.files import atomic_path, write_bytes
from franca.inference.image_folder import ImageFolder, Pixels, load_squares
from franca.models import FrancaModel
from franca.process import listen_for_stop
from franca.runtime import device_of

GROUP_BYTES = 64 << 20
"""Embeddings of a row group, and so the most that waits in memory to be written."""
_SHOWN = 3


class Refused(NamedTuple):
    path: str
    reason: str


class Embedded(NamedTuple):
    """How many embeddings were written, and the images that have none."""

    rows: int
    refused: list[Refused]


def run(
    folder: Path,
    output: Path,
    source: str,
    *,
    dim: int | None,
    batch_size: int,
    workers: int,
    device: Literal["auto", "cpu", "cuda"],
) -> None:
    """The `embed` command: write `output` and tell what could not be embedded."""
    if output.suffix != ".parquet" or output.is_dir():
        raise FrancaError(f"{printable(output)}: embeddings go into a Parquet file; name one that ends in .parquet")
    for option, value in (("--batch-size", batch_size), ("--workers", workers)):
        if value < 1:
            raise FrancaError(f"{option} {value}: must be 1 or more")
    place = device_of(device, "--device")
    images = ImageFolder(folder)
    model = hub.load(source).to(place)
    stop = listen_for_stop()
    done = embed(
        model, images, output, source, dim=dim, batch_size=batch_size, threads=workers, stop=lambda: bool(stop)
    )
    print(f"{printable(output)}: {done.rows:,} embeddings of {dim or model.embed_dim} dimensions by {source}")
    if images.ignored:
        print(f"{printable(folder)}: left alone {list_ignored(images.ignored)}")
    if done.refused:
        left_out = f"left out {len(done.refused):,} of {done.rows + len(done.refused):,} images"
        print(f"{printable(refused_path(output))}: {left_out}: {_shown(done.refused)}", file=sys.stderr)


def refused_path(output: Path) -> Path:
    """The list, path and reason, of images that have no embedding in `output`; there is none where all have one."""
    return output.with_suffix(".refused.csv")


@torch.inference_mode()
def embed(
    model: FrancaModel,
    images: ImageFolder,
    output: Path,
    source: str,
    *,
    dim: int | None = None,
    batch_size: int = 128,
    threads: int = 1,
    stop: Callable[[], bool] = lambda: False,
) -> Embedded:
    """Write `path` (string) and `embedding` (fixed-size list of float32) of each image, in the order of the paths.

    Paths are as `as_text` writes them: exact, with a form of their own for those that are not UTF-8.
    Embeddings are the model's pooled features on its own device, the first `dim` of them, not normalized. Metadata of
    the file tell the model, which `source` names, and what it saw. The file appears when it is whole; on any fault
    what stood there stays. Raises FrancaError for a `dim` that the model has not or when no image can be read, and
    Stopped when `stop` turns true.
    """
    width = model.embed_dim if dim is None else dim
    if not 1 <= width <= model.embed_dim:
        nested = f" (nested: {', '.join(map(str, model.levels))})" if model.levels else ""
        raise FrancaError(f"--dim {dim}: the embedding of {source} has 1 to {model.embed_dim} dimensions{nested}")
    about = {
        "franca.model": source,
        "franca.model_digest": model.digest,
        "franca.source": as_text(str(images.folder)),
        "franca.image_size": str(model.image_size),
    }
    device = next(model.parameters()).device
    refused: list[Refused] = []
    squares = load_squares(images, model.image_size, threads, 2 * batch_size + threads)
    bar = tqdm(total=images.total_bytes, unit="B", unit_scale=True, desc=printable(images.folder), disable=None)
    with strict_decoding(), closing(squares), bar, atomic_path(output) as temporary:
        with _Rows(temporary, width, about) as rows:
            for names, pixels in _batches(squares, batch_size, refused, stop):
                rows.add(names, model(pixels.to(device)).pooled[:, :width].cpu().numpy())
                bar.set_postfix(images=rows.count, refused=len(refused), refresh=False)
                bar.update(images.bytes_read - bar.n)
        if not rows.count:
            raise FrancaError(
                f"{printable(images.folder)}: none of its {len(refused)} images can be read: {_shown(refused)}"
            )
        _write_refused(refused_path(output), refused)
    return Embedded(rows.count, refused)


def _batches(
    squares: Iterator[tuple[str, Pixels | str]], size: int, refused: list[Refused], stop: Callable[[], bool]
) -> Iterator[tuple[list[str], Tensor]]:
    """Names and uint8 (B, 3, H, W) of `size` images at a time; what has no pixels goes to `refused`."""
    names: list[str] = []
    batch: list[Pixels] = []
    for name, pixels in squares:
        if stop():
            raise Stopped("stopped before all images were embedded; nothing was written; run the command again")
        if isinstance(pixels, str):
            refused.append(Refused(name, pixels))
            continue
        names.append(name)
        batch.append(pixels)
        if len(batch) == size:
            yield names, _stack(batch)
            names, batch = [], []
    if batch:
        yield names, _stack(batch)


def _stack(batch: list[Pixels]) -> Tensor:
    return torch.from_numpy(np.stack(batch)).permute(0, 3, 1, 2).contiguous()


class _Rows:
    """The rows of a new Parquet file, written a row group at a time."""

    def __init__(self, path: Path, width: int, about: dict[str, str]) -> None:
        self._type = pa.list_(pa.float32(), width)
        schema = pa.schema({"path": pa.string(), "embedding": self._type}, about)
        self._writer = parquet.ParquetWriter(path, schema, use_dictionary=False)
        self._schema = schema
        self._group = max(1, GROUP_BYTES // (4 * width))
        self._names: list[str] = []
        self._vectors: list[NDArray[np.float32]] = []
        self.count = 0

    def add(self, names: list[str], vectors: NDArray[np.float32]) -> None:
        self._names += names
        # A copy, since class tokens are a view that would keep all tokens of the batch alive.
        self._vectors.append(vectors.copy())
        self.count += len(names)
        if len(self._names) >= self._group:
            self._flush()

    def _flush(self) -> None:
        if self._names:
            values = pa.array(np.concatenate(self._vectors).ravel())
            embeddings = pa.FixedSizeListArray.from_arrays(values, type=self._type)
            self._writer.write_table(pa.table([pa.array(self._names), embeddings], schema=self._schema))
        self._names, self._vectors = [], []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._flush()
        finally:
            self._writer.close()


def _write_refused(path: Path, refused: list[Refused]) -> None:
    if not refused:
        return path.unlink(missing_ok=True)
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(Refused._fields)
    writer.writerows(refused)
    return write_bytes(path, buffer.getvalue().encode())


def _shown(refused: list[Refused]) -> str:
    more = f"; and {len(refused) - _SHOWN:,} more" if len(refused) > _SHOWN else ""
    return "; ".join(printable(f"{path}: {reason}") for path, reason in refused[:_SHOWN]) + more
