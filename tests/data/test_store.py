"""The pack: what goes in comes out, across shards, processes and left-out rows."""

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from franca.data.store.pack import Pack, PackWriter
from franca.data.store.prepared import Store
from franca.errors import FrancaError
from franca.files import sha256_file


def test_records_come_back_across_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("franca.data.store.pack.SHARD_BYTES", 100)
    records = [bytes([i]) * (i * 7 % 60) for i in range(40)] + [b"longer than a shard" * 10]
    with PackWriter(tmp_path / "pack") as writer:
        for i, record in enumerate(records):
            writer.add(record, number=i)
        files = writer.close()
    assert len(files) > 10
    assert files == {path.name: sha256_file(path) for path in (tmp_path / "pack").iterdir()}
    pack = Pack(tmp_path / "pack")
    assert [pack[i] for i in range(len(pack))] == records
    assert pack.index.columns["number"].tolist() == list(range(41))
    again = pickle.loads(pickle.dumps(pack))
    assert [again[i] for i in range(len(again))] == records


def test_rows_left_out_and_columns_added_at_the_end(tmp_path: Path) -> None:
    writer = PackWriter(tmp_path / "pack")
    for record in (b"a", b"bb", b"ccc"):
        writer.add(record)
    writer.close(np.array([True, False, True]), label=np.array([5, 6, 7]))
    pack = Pack(tmp_path / "pack")
    assert [pack[i] for i in range(len(pack))] == [b"a", b"ccc"]
    assert pack.index.columns["label"].tolist() == [5, 7]


def test_pack_without_an_index_is_told_in_one_line(tmp_path: Path) -> None:
    PackWriter(tmp_path / "pack").add(b"a")
    with pytest.raises(FrancaError, match=r"no readable prepared store.*run `dvc repro prepare`"):
        Pack(tmp_path / "pack")
    with pytest.raises(FrancaError, match=r"manifest.json: no such file; run `dvc repro prepare` first"):
        Store(tmp_path)


def test_images_are_decoded_as_prepare_saw_them(tmp_path: Path, picture: Callable[..., bytes]) -> None:
    with PackWriter(tmp_path / "images") as writer:
        writer.add(picture(0, (30, 20), format="JPEG"), label=1, split=0)
        writer.add(picture(1, (10, 40)), label=0, split=1)
        writer.close()
    (tmp_path / "manifest.json").write_text('{"classes": ["land", "sea"], "dense": null}')
    store = Store(tmp_path)
    (train,) = store.images("train")
    assert (train.size, train.mode) == ((30, 20), "RGB")
    assert store.images("val").labels.tolist() == [0]
    assert len(store.images("test")) == 0
    assert store.dense("train") is None


def test_a_shard_cut_short_is_one_clear_line(tmp_path: Path) -> None:
    with PackWriter(tmp_path / "images") as writer:
        writer.add(b"0123456789")
        writer.close()
    shard = tmp_path / "images/shard-00000.bin"
    shard.write_bytes(shard.read_bytes()[:7])
    with pytest.raises(FrancaError, match=r"shard-00000\.bin: 7 bytes where the index has 10; delete .* `dvc repro"):
        Pack(tmp_path / "images")
    shard.unlink()
    with pytest.raises(FrancaError, match=r"shard-00000\.bin: 0 bytes"):
        Pack(tmp_path / "images")
