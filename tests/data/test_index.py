"""The index: what is written comes back, small, mapped, split by split, and its size costs neither time nor memory."""

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.loader import synthetic_store
from franca.data.store.index import SPLITS, Index, IndexWriter, Shard
from franca.data.store.prepared import Store
from franca.errors import FrancaError

RECORDS = 40


def write(folder: Path, **columns: np.ndarray) -> Index:
    writer = IndexWriter(folder)
    for i in range(RECORDS):
        writer.append(shard=i // 30, offset=i * 10, length=10)
    writer.write("far/away", [Shard("0.tar", 300), Shard("1.tar", 100)], 0.25, None, columns)
    return Index(folder)


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    values = np.arange(RECORDS) * 1000 - 5
    index = write(tmp_path, label=values)
    assert (len(index), index.place, index.max_lost) == (RECORDS, "far/away", 0.25)
    assert index.shards == [Shard("0.tar", 300), Shard("1.tar", 100)]
    assert index.where(1) == "far/away/1.tar"
    assert index.get("label", [3, 0, 39]) == [2995, -5, 38995]
    assert index.get("offset", range(2)) == [0, 10]


@pytest.mark.parametrize(
    ("low", "high", "dtype"),
    [(0, 255, "uint8"), (-1, 100, "int8"), (0, 256, "uint16"), (-1, 21_840, "int16"), (0, 2**32 - 1, "uint32"),
     (-1, 2**31 - 1, "int32"), (0, 2**40, "int64")],
)  # fmt: skip
def test_columns_are_no_larger_than_they_must_be(tmp_path: Path, low: int, high: int, dtype: str) -> None:
    values = np.linspace(low, high, RECORDS).astype(np.int64)
    column = write(tmp_path, label=values).columns["label"]
    assert column.dtype == dtype
    assert column.tolist() == values.tolist()


def test_the_records_of_a_split_lie_side_by_side_in_their_order(tmp_path: Path) -> None:
    split = np.random.default_rng(0).integers(0, 3, RECORDS)
    index = write(tmp_path, split=split, number=np.arange(RECORDS))
    for number, name in enumerate(SPLITS):
        rows = index.splits[name]
        assert index.columns["number"][rows.start : rows.stop].tolist() == np.flatnonzero(split == number).tolist()
    assert "split" not in index.columns
    no_test = write(tmp_path / "no test", split=np.zeros(RECORDS, dtype=np.int64))
    assert no_test.splits == {"train": range(RECORDS), "val": range(RECORDS, RECORDS), "test": range(RECORDS, RECORDS)}


def test_an_empty_index(tmp_path: Path) -> None:
    empty = {name: np.zeros(0, dtype=np.int64) for name in ("shard", "offset", "length")}
    IndexWriter(tmp_path).write(None, [], 0.0, None, empty)
    assert len(Index(tmp_path)) == 0


def test_columns_are_mapped_and_never_pickled(tmp_path: Path) -> None:
    index = write(tmp_path, label=np.arange(RECORDS))
    assert all(isinstance(column.base, np.memmap) for column in index.columns.values())
    content = pickle.dumps(index)
    assert len(content) < 200
    assert pickle.loads(content).get("label", range(RECORDS)) == list(range(RECORDS))


@pytest.mark.parametrize("damage", ["cut", "gone", "no index", "shorter", "no JSON", "text"])
def test_damage_is_told_in_one_line(tmp_path: Path, damage: str) -> None:
    write(tmp_path)
    path = tmp_path / "offset.npy"
    match damage:
        case "cut":
            path.write_bytes(path.read_bytes()[:-3])
        case "gone":
            path.unlink()
        case "no index":
            (tmp_path / "index.json").unlink()
        case "shorter":
            np.save(path, np.arange(RECORDS - 1))
        case "no JSON":
            (tmp_path / "index.json").write_text('{"place"')
        case "text":
            np.save(path, np.full(RECORDS, "a"))
    with pytest.raises(FrancaError, match=r"no readable prepared store \(.*\); run `dvc repro prepare`") as caught:
        Index(tmp_path)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


OPEN = """
import sys
from pathlib import Path
import numpy as np
from franca.data.views.shuffle import Order
from franca.data.store.prepared import Store

def held():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon"))

for folder in sys.argv[1:]:
    before = held()
    images = Store(Path(folder)).images("train")
    order = Order(0, images.firsts, 16384)
    indices = [order[np.arange(step, step + 32)] for step in range(0, 10**7, 10**6)]
    assert images.labels[:900].max() > 900
    print(len(images), held() - before)
"""


def test_memory_does_not_grow_with_the_index(tmp_path: Path) -> None:
    """In KiB, of what no other process can share: four million entries would be 31,250 in one column of int64."""
    for entries in (10**3, 10**4, 4 * 10**6):
        synthetic_store(tmp_path / str(entries), entries)
    folders = [str(tmp_path / str(entries)) for entries in (10**3, 10**4, 4 * 10**6)]
    done = subprocess.run([sys.executable, "-c", OPEN, *folders], check=True, capture_output=True, text=True)
    (_, _), (few, small), (many, large) = (map(int, line.split()) for line in done.stdout.splitlines())
    assert (few, many) == (9800, 3_920_000)
    assert large - small < 2000


def test_the_images_of_each_shard_are_found_without_reading_the_column(tmp_path: Path) -> None:
    synthetic_store(tmp_path, 25_000)
    store = Store(tmp_path)
    train = store.images("train")
    assert train.in_place and train.firsts.tolist() == [0, 9800, 19600, 24500]
    assert store.images("val").firsts.tolist() == [0, 100, 200, 250]


def test_shards_of_which_no_image_was_taken_are_empty(tmp_path: Path) -> None:
    """More shards than the column's type can count."""
    rows = np.arange(10)
    columns = {"shard": rows // 5, "offset": rows, "length": rows, "crc": rows}
    shards = [Shard(f"{number}.tar", 10) for number in range(300)]
    IndexWriter(tmp_path / "images").write("nowhere", shards, 0.0, None, columns)
    (tmp_path / "manifest.json").write_text('{"classes": [], "dense": null}')
    images = Store(tmp_path).images("train")
    assert images.firsts.tolist() == [0, 5, *[10] * 299]
    assert images.labels.tolist() == [-1] * 10
