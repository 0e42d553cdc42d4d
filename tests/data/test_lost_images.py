"""Training from shards in place: the same bytes by any number of workers, also where shards are lost on the way."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._pytree import tree_leaves

from franca.data.ingest.prepare import prepare
from franca.data.store.index import LostRecord
from franca.data.store.pack import PackWriter
from franca.data.store.prepared import ImageSet, Store
from franca.data.views.batch import Batch, RawBatch
from franca.data.views.loader import StepDataset, StepLoader
from franca.data.views.lost_images import LostImages, fetch_or_replace
from franca.errors import FrancaError
from franca.files import write_json
from tests.conftest import MakeParams
from tests.data.conftest import Place, put

Build = Callable[..., Path]
SHARDS, STEPS = 4, 5


@pytest.fixture
def source(tmp_path: Path, make_shards: Build, place: Place) -> str:
    return place(make_shards(tmp_path / "source", SHARDS))


@pytest.fixture
def dataset(tmp_path: Path, tiny_params: MakeParams, make_params: Callable[..., Any]) -> Callable[..., StepDataset]:
    """Of a source in place; the limit of what may be lost is a share of the training images."""

    def make(source: str, max_refused: float = 0.0) -> StepDataset:
        params = tiny_params()
        prepare(make_params(source, storage="in_place", max_refused=max_refused), tmp_path / "prepared")
        return StepDataset(Store(tmp_path / "prepared").images("train"), None, params.base, params.pretrain)

    return make


def same(batches: Iterable[Batch | RawBatch], others: Iterable[Batch | RawBatch]) -> bool:
    return all(
        torch.equal(a, b)
        for one, other in zip(batches, others, strict=True)
        for a, b in zip(tree_leaves(one.make_crops()), tree_leaves(other.make_crops()), strict=True)
        if isinstance(a, torch.Tensor)
    )


def test_workers_and_a_later_start_change_nothing(source: str, dataset: Callable[..., StepDataset]) -> None:
    data = dataset(source)
    assert data.images[0].size == (24, 20), "read here before the workers are forked"
    alone = list(StepLoader(data, 0, STEPS, workers=0, pin=False))
    assert same(StepLoader(data, 0, STEPS, workers=2, pin=False), alone)
    assert same(StepLoader(data, 3, STEPS, workers=1, pin=False), alone[3:])
    assert data.images[0].size == (24, 20), "and still read here"


def test_an_epoch_meets_every_image_once(source: str, dataset: Callable[..., StepDataset]) -> None:
    data = dataset(source)
    size = len(data.images)
    met = np.concatenate([data.indices(step) for step in range(size)])[: 8 * size].reshape(8, size)
    assert (np.sort(met, axis=1) == np.arange(size)).all()


@pytest.mark.parametrize(
    ("place", "damage"),
    [("disk", None), ("disk", bytes(700)), ("disk", b"other bytes" * 5000), ("S3", None)],
    indirect=["place"],
)
def test_others_take_the_place_of_what_is_lost(
    source: str, dataset: Callable[..., StepDataset], capfd: pytest.CaptureFixture[str], damage: bytes | None
) -> None:
    data = dataset(source, max_refused=0.4)
    whole = list(StepLoader(data, 0, STEPS, workers=0, pin=False))
    put(f"{source}/00002.tar", damage)
    capfd.readouterr()
    alone = list(StepLoader(data, 0, STEPS, workers=0, pin=False))
    assert capfd.readouterr().err.count(f"{source}/00002.tar: ") == 1
    assert same(StepLoader(data, 0, STEPS, workers=2, pin=False), alone)
    assert capfd.readouterr().err.count("its images are replaced by others") == 1
    assert same(StepLoader(data, 4, STEPS, workers=0, pin=False), alone[4:])

    lost = range(*data.images.firsts[2:4].tolist())
    for step in range(STEPS):
        changed = np.isin(data.indices(step), lost)
        before, after = (batches[step].make_crops().global_views.pixels.flatten(1) for batches in (whole, alone))
        assert ((before != after).any(dim=1).numpy().reshape(2, -1) == changed).all()


@pytest.mark.parametrize("workers", [0, 2])
def test_more_than_the_limit_ends_the_run_in_one_line(
    tmp_path: Path, make_shards: Build, dataset: Callable[..., StepDataset], workers: int
) -> None:
    source = make_shards(tmp_path / "source", SHARDS)
    data = dataset(str(source), max_refused=0.05)
    (source / "00001.tar").unlink()
    (source / "00003.tar").write_bytes(b"")
    with pytest.raises(FrancaError, match=r"images cannot be read, prepare.max_refused 0.05 allows") as caught:
        list(StepLoader(data, 0, 20, workers, pin=False))
    said = str(caught.value)
    assert f"{source}/00001.tar: it is gone" in said or f"{source}/00003.tar: it has 0 bytes" in said
    assert "\n" not in said and "Traceback" not in said


def test_nothing_left_at_all_is_no_endless_search(
    tmp_path: Path, make_shards: Build, dataset: Callable[..., StepDataset]
) -> None:
    source = make_shards(tmp_path / "source", SHARDS)
    data = dataset(str(source), max_refused=1.0)
    for path in source.iterdir():
        path.unlink()
    with pytest.raises(FrancaError, match=r"tar: it is gone; restore it"):
        next(iter(StepLoader(data, 0, 1, workers=1, pin=False)))


@pytest.fixture
def packed(tmp_path: Path, picture: Callable[..., bytes]) -> ImageSet:
    """Ten images in a pack, of which the fourth is none."""
    with PackWriter(tmp_path / "images") as writer:
        for i in range(10):
            writer.add(b"no image" if i == 3 else picture(i), split=0)
        writer.close(max_lost=0.1)
    write_json(tmp_path / "manifest.json", {"classes": [], "dense": None})
    return Store(tmp_path).images("train")


def test_an_image_that_does_not_decode_is_replaced(packed: ImageSet, tmp_path: Path) -> None:
    lost: dict[int, LostRecord] = {}
    found = fetch_or_replace(packed, [2, 3, 4], lambda place: np.random.default_rng(place), lambda *_: 1, lost)
    indices, images = zip(*found, strict=True)
    first, second, third = map(np.asarray, images)
    assert (first == np.asarray(packed[2])).all() and (third == np.asarray(packed[4])).all()
    others = [i for i in range(10) if i != 3 and (np.asarray(packed[i]) == second).all()]
    assert others == [indices[1]] and indices[::2] == (2, 4)
    shard = f"{tmp_path}/images/shard-00000.bin"
    assert lost.keys() == {3}
    assert lost[3].shard == shard and "does not decode (not an image of a known format" in lost[3].reason
    with pytest.raises(FrancaError, match=rf"{shard}: its record at byte \d+ does not decode"):
        packed[3]


def test_what_is_lost_is_counted_once(packed: ImageSet, capsys: pytest.CaptureFixture[str]) -> None:
    lost = LostImages(packed)
    for _ in range(3):
        lost.add({3: LostRecord("a.tar", "it is gone")})
    assert capsys.readouterr().err == "a.tar: it is gone; its images are replaced by others\n"
    with pytest.raises(FrancaError, match=r"^2 of 10 .* allows 1 \(a.tar: it is gone; b.tar: it is short\); restore"):
        lost.add({4: LostRecord("b.tar", "it is short")})
