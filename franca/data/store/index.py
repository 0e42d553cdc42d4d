"""The index of a set of records: a column a file, mapped into memory, so that ten million cost no more than ten.

index.json              where the shards are, their names and lengths, and which records belong to which split
offset.npy, length.npy  a value a record: its shard, its place there, and what else is known of it
"""

import hashlib
import io
import json
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn, Self

import numpy as np
from numpy.typing import NDArray

from franca.errors import FrancaError
from franca.files import read_json, write_bytes

SplitName = Literal["train", "val", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "val", "test")
_INTEGERS = (np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32, np.int64)


class Shard(NamedTuple):
    """One large file: its name inside the folder of shards, its length in bytes."""

    name: str
    size: int


class Lost(NamedTuple):
    """A record that cannot be read: the shard it lies in, and why."""

    shard: str
    reason: str

    def tell(self) -> NoReturn:
        """Raise the FrancaError of who cannot do without the record."""
        raise FrancaError(f"{self.shard}: {self.reason}; bring it back, or run `dvc repro prepare`")


class IndexWriter:
    """Gathers integer columns, a record at a time; `write` makes the index of them."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._columns: dict[str, array[int]] = {}

    def append(self, **columns: int) -> None:
        """One record; every record has the same columns, `shard`, `offset` and `length` among them."""
        for name, value in columns.items():
            self._columns.setdefault(name, array("q")).append(value)

    def write(
        self,
        place: str | None,
        shards: list[Shard],
        max_lost: float,
        keep: NDArray[np.bool_] | None,
        columns: dict[str, NDArray[np.int64]],
    ) -> dict[str, str]:
        """Write the files, the records of each split side by side; returns the SHA-256 of each file by its name.

        `place` is the folder of the shards, None for the index's own; `max_lost` the share of a split that training
        may do without; `keep` (one flag a record) leaves records out; `columns` (one value a record) adds what was
        not known when the records came.
        """
        table = {name: np.array(values, dtype=np.int64) for name, values in self._columns.items()} | columns
        if keep is not None:
            table = {name: values[keep] for name, values in table.items()}
        split = table.pop("split", np.zeros(len(next(iter(table.values()), ())), dtype=np.int64))
        stops = np.cumsum(np.bincount(split, minlength=len(SPLITS))).tolist()
        about = {
            "place": place,
            "shards": shards,
            "splits": {name: bounds for name, *bounds in zip(SPLITS, [0, *stops], stops, strict=False)},
            "max_lost": max_lost,
        }
        contents = {"index.json": (json.dumps(about) + "\n").encode()}
        order = np.argsort(split, kind="stable")
        for name, values in table.items():
            buffer = io.BytesIO()
            np.save(buffer, _smallest(values[order]))
            contents[f"{name}.npy"] = buffer.getvalue()
        for name, content in contents.items():
            write_bytes(self._folder / name, content)
        return {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}


class Index:
    """What `IndexWriter` wrote; FrancaError where it is missing or damaged.

    `columns` are arrays of shape (N,) of the smallest integers that hold them: convert them before you calculate.
    `splits` are the rows of each split.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            about: dict[str, Any] = read_json(folder / "index.json")
            self.place: str | None = about["place"]
            self.shards = [Shard(*shard) for shard in about["shards"]]
            self.splits = {name: range(*bounds) for name, bounds in about["splits"].items()}
            self.max_lost = float(about["max_lost"])
            self.columns = {path.stem: _mapped(path) for path in sorted(folder.glob("*.npy"))}
            sizes = {len(self.columns[name]) for name in ("shard", "offset", "length", *self.columns)}
            if sizes != {max(rows.stop for rows in self.splits.values())}:
                raise ValueError("columns of different lengths")
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else error
            raise FrancaError(f"{folder}: no readable prepared store ({reason}); run `dvc repro prepare`") from None

    def __reduce__(self) -> tuple[type[Self], tuple[Path]]:
        """Another process maps the columns anew: pickled, they would be copied."""
        return type(self), (self.folder,)

    def __len__(self) -> int:
        return len(self.columns["offset"])

    def get(self, name: str, rows: Sequence[int]) -> list[int]:
        """Values of a column at the given rows."""
        return self.columns[name][np.asarray(rows, dtype=np.int64)].tolist()

    def where(self, shard: int) -> str:
        """Path or URL of a shard."""
        return f"{self.place or self.folder}/{self.shards[shard].name}"


def _mapped(path: Path) -> NDArray[np.integer]:
    column = np.load(path, mmap_mode="r", allow_pickle=False)
    if column.ndim != 1 or column.dtype.kind not in "iu":
        raise ValueError(f"{path.name} is no column of integers")
    return column.view(np.ndarray)


def _smallest(values: NDArray[np.int64]) -> NDArray[np.integer]:
    """The same values as the smallest integers that hold them all."""
    low, high = int(values.min(initial=0)), int(values.max(initial=0))
    return values.astype(next(d for d in _INTEGERS if np.iinfo(d).min <= low and high <= np.iinfo(d).max))
