"""Images left in their tars: the same as packed ones, read by byte range, and what has become of a tar is told."""

import threading
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from moto.core.authorization import enable_iam_authentication
from moto.server import ThreadedMotoServer

from franca.data.ingest.prepare import prepare
from franca.data.store import in_place
from franca.data.store.in_place import BLOCK, GAP
from franca.data.store.index import SPLITS, LostRecord
from franca.data.store.prepared import ImageSet, Store
from franca.errors import FrancaError
from franca.params import Prepare
from tests.data.conftest import Place, put

Build = Callable[..., Path]
MakeParams = Callable[..., Prepare]
SHARD = "00001.tar"


@pytest.fixture
def make_store(tmp_path: Path, make_params: MakeParams) -> Callable[..., Store]:
    def make(source: str, storage: str = "in_place") -> Store:
        prepare(make_params(source, storage=storage), tmp_path / storage)
        return Store(tmp_path / storage)

    return make


@pytest.fixture
def source(tmp_path: Path, make_shards: Build, place: Place) -> str:
    return place(make_shards(tmp_path / "source"))


def read_all(images: ImageSet) -> list[bytes | LostRecord]:
    return images.read(range(len(images)))


def test_in_place_and_packed_are_the_same_images(
    tmp_path: Path, source: str, make_store: Callable[..., Store]
) -> None:
    packed, in_place = make_store(source, "pack"), make_store(source)
    for split in SPLITS:
        images, others = packed.images(split), in_place.images(split)
        assert len(images) > 0 and read_all(images) == read_all(others)
        assert images.labels.tolist() == others.labels.tolist()
        assert all((np.asarray(a) == np.asarray(b)).all() for a, b in zip(images, others, strict=True))
    assert packed.manifest | {"files": 0} == in_place.manifest | {"files": 0}
    assert not list((tmp_path / "in_place").rglob("*.bin"))
    assert in_place.images("train").in_place and not packed.images("train").in_place


def test_reads_come_in_the_order_asked_for(source: str, make_store: Callable[..., Store]) -> None:
    images = make_store(source).images("train")
    forwards = read_all(images)
    order = np.random.default_rng(0).permutation(len(images)).tolist()
    assert images.read(order) == [forwards[i] for i in order]
    assert images.read([3, 3]) == [forwards[3]] * 2
    assert images.read([]) == []


def test_what_is_lost_is_told_and_nothing_else_is(
    source: str, make_store: Callable[..., Store], tmp_path: Path, make_shards: Build
) -> None:
    """A shard is gone, cut in the middle of an image, replaced by one of the same length, or appended to."""
    images = make_store(source).images("train")
    before = read_all(images)
    whole = Path(make_shards(tmp_path / "again"), SHARD).read_bytes()
    firsts = images.firsts.tolist()
    within = range(firsts[1], firsts[2])
    offsets = images._pack.index.get("offset", [images.rows[i] for i in within])
    half = len(within) // 2
    middle = offsets[half]
    swapped = whole[:middle] + bytes(byte ^ 255 for byte in whole[middle:])
    cut = f"it has {middle + 10} bytes where the index has {len(whole)}"
    # By damage: what becomes of the shard, how many of its images can still be read, and what is said of the others.
    damages: dict[str, tuple[bytes | None, int, str | None]] = {
        "gone": (None, 0, "it is gone"),
        "cut": (whole[: middle + 10], half, cut),
        "other": (swapped, half, "its bytes are not those that were prepared"),
        "longer": (whole + bytes(512), len(within), None),
    }
    for damage, (damaged, kept, said) in damages.items():
        put(f"{source}/{SHARD}", damaged)
        after = read_all(images)
        lost = {i for i, content in enumerate(after) if isinstance(content, LostRecord)}
        assert lost == set(within[kept:]), damage
        assert [content for i, content in enumerate(after) if i not in lost] == [
            content for i, content in enumerate(before) if i not in lost
        ], damage
        assert {after[i] for i in lost} == ({LostRecord(f"{source}/{SHARD}", said)} if said else set()), damage
        if lost:
            with pytest.raises(FrancaError, match=rf"^{source}/{SHARD}: {said}; restore it, or run `dvc repro"):
                list(images)
        put(f"{source}/{SHARD}", whole)
        assert read_all(images) == before, damage


def test_a_record_that_was_never_where_the_shard_now_ends(source: str, make_store: Callable[..., Store]) -> None:
    """A range wholly beyond the end: some storages give an error, others no bytes."""
    images = make_store(source).images("train")
    put(f"{source}/{SHARD}", bytes(100))
    (lost,) = images.read([int(images.firsts[2]) - 1])
    assert isinstance(lost, LostRecord) and lost.reason.startswith("it has 100 bytes where")


def test_a_storage_that_comes_back_is_waited_for(
    s3: str, tmp_path: Path, make_shards: Build, make_store: Callable[..., Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    put("s3://again", b"")
    for path in make_shards(tmp_path / "source").iterdir():
        put(f"s3://again/{path.name}", path.read_bytes())
    images = make_store("s3://again").images("train")
    before = read_all(images)
    server.stop()

    monkeypatch.setattr(in_place, "PATIENCE", (0.0, 0.0))
    with pytest.raises(FrancaError, match=r"^s3://again/00000.tar: Could not connect.*check the address") as caught:
        read_all(images)
    assert "\n" not in str(caught.value)

    monkeypatch.setattr(in_place, "PATIENCE", (0.1,) * 100)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    threading.Timer(0.3, server.start).start()
    assert read_all(images) == before
    server.stop()


def test_access_denied_is_told_at_once(
    s3: str, tmp_path: Path, make_shards: Build, make_store: Callable[..., Store]
) -> None:
    for path in make_shards(tmp_path / "source").iterdir():
        put(f"{s3}/{path.name}", path.read_bytes())
    images = make_store(s3).images("train")
    with enable_iam_authentication(), pytest.raises(FrancaError, match=rf"^{s3}/00000.tar: access denied .*keys"):
        read_all(images)


def test_loose_images_stay_nowhere(
    tmp_path: Path, make_tree: Build, picture: Callable[..., bytes], make_store: Callable[..., Store]
) -> None:
    make_tree(tmp_path / "source", {"1.png": picture(1)})
    with pytest.raises(FrancaError, match=r"prepare.storage: in_place is for tars, and .*source holds loose images"):
        make_store(str(tmp_path / "source"))


def test_neighbors_come_in_one_request() -> None:
    rng = np.random.default_rng(0)
    numbers = rng.integers(0, 3, 200)
    offsets = rng.integers(0, 1 << 26, 200)
    lengths = rng.integers(1, 1 << 18, 200)
    blocks = in_place._blocks(numbers.tolist(), offsets.tolist(), lengths.tolist())
    assert sorted(i for block in blocks for i in block.records) == list(range(200))
    for block in blocks:
        assert block.stop - block.start <= BLOCK or len(block.records) == 1
        for i in block.records:
            assert numbers[i] == block.shard
            assert block.start <= offsets[i] and offsets[i] + lengths[i] <= block.stop
    for block, after in pairwise(blocks):
        if block.shard == after.shard:
            full = after.start + lengths[after.records[0]] - block.start > BLOCK
            assert after.start > block.stop + GAP or full
    assert len(in_place._blocks([0] * 100, list(range(0, 5000, 50)), [40] * 100)) == 1
