"""The index of a set of records: one file for each column, memory-mapped, so memory does not grow with the records.

index.json                    folder, names and lengths of the shards, and the rows of each split
shard.npy, offset.npy, …      one value for each record: its shard, its position there, and further facts
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
    """A large file of records: its name in the folder of shards, and its length in bytes."""

    name: str
    size: int


class LostRecord(NamedTuple):
    """A record that can no longer be read: the shard that holds it, and the reason."""

    shard: str
    reason: str

    def raise_error(self) -> NoReturn:
        """Raise FrancaError, for callers that require this record."""
        raise FrancaError(f"{self.shard}: {self.reason}; restore it, or run `dvc repro prepare`")


class IndexWriter:
    """Collects integer columns, one record at a time, and writes an index of them."""

    def __init__(self, folder: Path) -> None:
        """Create `folder`, which will contain the index."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        # An index without records has these columns as well.
        self._columns: dict[str, array[int]] = {name: array("q") for name in ("shard", "offset", "length")}

    def append(self, **columns: int) -> None:
        """Add one record. All records have the same columns, including `shard`, `offset` and `length`."""
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
        """Write the files, sorted so that the records of each split are consecutive rows.

        Args:
            place: Path or URL of the folder of the shards; None if they are in the index's folder.
            shards: The shards, by number.
            max_lost: Share of the training records that may be unreadable in training, 0 to 1.
            keep: Whether to keep each record, bool (N,); None for all.
            columns: More columns, int64 (N,) each; `split` assigns the records to splits.

        Returns:
            The SHA-256 of each file by its name.
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
    """An index that `IndexWriter` has written.

    `columns` are arrays of shape (N,) in the smallest integer type that can hold them: convert them before you
    calculate. `splits` are the rows of each split.
    """

    def __init__(self, folder: Path) -> None:
        """Map the columns; raises FrancaError if a file is missing or damaged."""
        self.folder = folder
        try:
            about: dict[str, Any] = read_json(folder / "index.json")
            self.place: str | None = about["place"]
            self.shards = [Shard(*shard) for shard in about["shards"]]
            self.splits = {name: range(*bounds) for name, bounds in about["splits"].items()}
            self.max_lost = float(about["max_lost"])
            self.columns = {path.stem: _map_column(path) for path in sorted(folder.glob("*.npy"))}
            sizes = {len(self.columns[name]) for name in ("shard", "offset", "length", *self.columns)}
            if sizes != {max(rows.stop for rows in self.splits.values())}:
                raise ValueError("columns of different lengths")
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else error
            raise FrancaError(f"{folder}: no readable prepared store ({reason}); run `dvc repro prepare`") from None

    def __reduce__(self) -> tuple[type[Self], tuple[Path]]:
        """Pickle the folder only, so that another process maps the columns again; pickled arrays would be copies."""
        return type(self), (self.folder,)

    def __len__(self) -> int:
        return len(self.columns["offset"])

    def get(self, name: str, rows: Sequence[int]) -> list[int]:
        """Return the values of a column at the given rows."""
        return self.columns[name][np.asarray(rows, dtype=np.int64)].tolist()

    def where(self, shard: int) -> str:
        """Return the path or URL of a shard."""
        return f"{self.place or self.folder}/{self.shards[shard].name}"


def _map_column(path: Path) -> NDArray[np.integer]:
    """Map a column into memory; raises ValueError if it is not a one-dimensional array of integers."""
    column = np.load(path, mmap_mode="r", allow_pickle=False)
    if column.ndim != 1 or column.dtype.kind not in "iu":
        raise ValueError(f"{path.name} is not a column of integers")
    # As a plain array: the subclass np.memmap adds overhead to each indexing.
    return column.view(np.ndarray)


def _smallest(values: NDArray[np.int64]) -> NDArray[np.integer]:
    """Return the values in the smallest integer type that can hold all of them."""
    low, high = int(values.min(initial=0)), int(values.max(initial=0))
    return values.astype(next(d for d in _INTEGERS if np.iinfo(d).min <= low and high <= np.iinfo(d).max))
