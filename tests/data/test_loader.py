import io
import os
import pickle
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils._pytree import tree_leaves

from franca.data.store.pack import PackWriter
from franca.data.store.prepared import ImageSet, Store
from franca.data.views import loader
from franca.data.views.batch import Batch, PartMasks, RawBatch, Views
from franca.data.views.loader import LARGEST_RAW, StepDataset, StepLoader
from franca.files import write_json
from tests.conftest import MakeParams, MakeStore

IMAGES = 12


@pytest.fixture(scope="module", params=[(24, 20), (24, 24)], ids=["cropped one by one", "all at once"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, make_store: MakeStore) -> Path:
    """Image i has the gray level 20 i all over; the dense images are white."""
    images = [Image.new("RGB", request.param, (20 * i,) * 3) for i in range(IMAGES)]
    return make_store(tmp_path_factory.mktemp("prepared"), train=IMAGES, images=images, dense=True)


@pytest.fixture
def dataset(folder: Path, tiny_params: MakeParams) -> Any:
    def make(**changes: Any) -> StepDataset:
        still = {
            "pretrain.dense_share": 0.0,
            "pretrain.augment.jitter_probability": 0.0,
            "pretrain.batch_size": 4,
        }
        batch_size = changes.get("pretrain.batch_size", still["pretrain.batch_size"])
        params = tiny_params(still | {"pretrain.losses.koleo_images": batch_size} | changes)
        store = Store(folder)
        return StepDataset(store.images("train"), store.dense("train"), params.base, params.pretrain)

    return make


def levels(views: Views) -> list[int]:
    """Which image each crop is of."""
    return [int(pixels.float().mean().round()) // 20 for pixels in views.pixels]


def same(first: Any, second: Any) -> bool:
    parts = zip(tree_leaves(first), tree_leaves(second), strict=True)
    return all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in parts)


@pytest.mark.parametrize(
    ("sizes", "kind"),
    [
        ([(24, 24)] * 8, RawBatch),
        ([(LARGEST_RAW, LARGEST_RAW)] * 8, RawBatch),
        ([(LARGEST_RAW + 1, LARGEST_RAW + 1)] * 8, Batch),
        ([(24, 20)] * 8, Batch),
        ([(24, 24)] * 7 + [(25, 25)], Batch),
    ],
)
def test_squares_of_one_small_size_are_left_uncut(
    sizes: list[tuple[int, int]], kind: type, tmp_path: Path, make_store: MakeStore, tiny_params: MakeParams
) -> None:
    """Images of another size in val decide nothing."""
    images = [Image.new("RGB", size) for size in [*sizes, (9, 7)]]
    store, params = Store(make_store(tmp_path / "prepared", train=8, images=images)), tiny_params()
    assert type(StepDataset(store.images("train"), None, params.base, params.pretrain)[0]) is kind


def test_shapes_and_types(dataset: Any) -> None:
    batch = dataset()[0]
    global_crops, local_crops, (part,) = batch.crops(torch.device("cpu"))
    assert global_crops.shape == (8, 3, 32, 32) and local_crops.shape == (8, 3, 16, 16)
    assert global_crops.dtype == local_crops.dtype == torch.float32
    assert global_crops.min() >= 0 and global_crops.max() <= 1
    assert part.masks.shape == (8, 16) and part.masks.dtype == torch.bool and part.masks.any(dim=1).sum() == 4


def test_no_local_crops(dataset: Any) -> None:
    _, local_crops, _ = dataset(**{"pretrain.crops.local_count": 0})[0].crops(torch.device("cpu"))
    assert local_crops.shape == (0, 3, 16, 16)


def test_crops_of_an_image_lie_a_batch_apart(dataset: Any) -> None:
    batch = dataset(**{"pretrain.crops.local_count": 3})[0].cut()
    first, second = np.array(levels(batch.global_views)).reshape(2, 4)
    assert (first == second).all() and len(set(first)) == 4
    assert (np.array(levels(batch.local_views)).reshape(3, 4) == first).all()


@pytest.mark.parametrize("batch_size", [4, 5])
def test_every_image_comes_once_an_epoch(dataset: Any, batch_size: int) -> None:
    data = dataset(**{"pretrain.batch_size": batch_size})
    order = [level for step in range(batch_size * 3) for level in levels(data[step].cut().global_views)[:batch_size]]
    epochs = np.array(order[: len(order) // IMAGES * IMAGES]).reshape(-1, IMAGES)
    assert (np.sort(epochs, axis=1) == np.arange(IMAGES)).all()
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == len(epochs)


def test_a_batch_depends_on_seed_and_step_alone(dataset: Any) -> None:
    data, again = dataset(), dataset()
    forwards = [data[step] for step in range(4)]
    backwards = [again[step] for step in reversed(range(4))][::-1]
    np.random.seed(1)
    torch.manual_seed(1)
    assert all(same(first, second) for first, second in zip(forwards, backwards, strict=True))
    assert not same(forwards[0], forwards[1])
    assert not same(forwards[0], dataset(**{"base.seed": 1})[0])


def test_workers_and_a_later_start_change_nothing(dataset: Any) -> None:
    data = dataset()
    alone = list(StepLoader(data, 0, 6, workers=0, pin=False))
    assert all(same(a, b) for a, b in zip(StepLoader(data, 0, 6, workers=2, pin=False), alone, strict=True))
    assert all(same(a, b) for a, b in zip(StepLoader(data, 3, 6, workers=0, pin=False), alone[3:], strict=True))
    assert list(StepLoader(data, 6, 6, workers=0, pin=False)) == []


@pytest.mark.parametrize("size", [(300, 221), (40, 44)])
def test_large_jpegs_are_decoded_smaller(
    size: tuple[int, int],
    photo: Image.Image,
    tmp_path: Path,
    tiny_params: MakeParams,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In training alone, where no crop needs more; small ones as they are."""
    write_jpegs(tmp_path, [photo.crop((20 * i, 9 * i, 20 * i + size[0], 9 * i + size[1])) for i in range(8)])
    store, params = Store(tmp_path), tiny_params()
    images = store.images("train")
    decoded = []
    plain = ImageSet.decode

    def decode(self: ImageSet, index: int, content: bytes, shrink: int = 1) -> Any:
        decoded.append(shrink)
        return plain(self, index, content, shrink)

    monkeypatch.setattr(ImageSet, "decode", decode)
    shrunk = StepDataset(images, None, params.base, params.pretrain)[0]
    monkeypatch.setattr(ImageSet, "decode", lambda self, index, content, shrink=1: plain(self, index, content))
    whole = StepDataset(images, None, params.base, params.pretrain)[0]
    assert isinstance(shrunk, Batch) and isinstance(whole, Batch)
    if size == (40, 44):
        assert set(decoded) == {1} and same(shrunk, whole)
    else:
        assert min(decoded) > 1 and not same(shrunk, whole)
        for one, other in zip(shrunk[:2], whole[:2], strict=True):
            assert (one.pixels.int() - other.pixels.int()).abs().float().mean() < 3
    assert images[0].size == size


def write_jpegs(folder: Path, images: list[Image.Image]) -> None:
    """A prepared store of JPEGs to train on."""
    with PackWriter(folder / "images") as writer:
        for image in images:
            buffer = io.BytesIO()
            image.save(buffer, "JPEG", quality=95)
            writer.add(buffer.getvalue(), height=image.height, width=image.width, label=-1, split=0)
        writer.close()
    write_json(folder / "manifest.json", {"classes": [], "dense": None})


@pytest.mark.parametrize("place", ["trainer", "worker"])
@pytest.mark.slow
def test_after_an_error_that_nobody_catches_the_trainer_ends(photos: Any, tmp_path: Path, place: str) -> None:
    """The traceback holds the batches, so that nobody tells their workers to end."""
    (tmp_path / "dataset").write_bytes(pickle.dumps(photos()))
    code = f"""
import pickle
from franca.data.views.loader import StepDataset, StepLoader

class Faulty(StepDataset):
    def __getitem__(self, step):
        return super().__getitem__(step) if step < 40 or "{place}" == "trainer" else 1 / 0

with open("dataset", "rb") as file:
    dataset = pickle.load(file)
dataset.__class__ = Faulty
for step, batch in enumerate(StepLoader(dataset, 0, 50, workers=2, pin=False)):
    if step == 20 and "{place}" == "trainer":
        1 / 0
"""
    environment = os.environ | {"PYTHONPATH": str(Path(loader.__file__).parents[2])}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "ZeroDivisionError" in done.stderr.rstrip().splitlines()[-1]


def test_threads_of_the_trainer_change_nothing(photos: Any) -> None:
    before = torch.get_num_threads()
    (alone,) = StepLoader(photos(), 0, 1, workers=1, pin=False)
    try:
        torch.set_num_threads(2)
        (here,) = StepLoader(photos(), 0, 1, workers=0, pin=False)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert same(alone, here)


def test_windows_of_dense_images_take_the_asked_share(dataset: Any) -> None:
    windows = dataset(**{"pretrain.dense_share": 1.0})[0].cut()
    assert (windows.global_views.pixels == 255).all() and (windows.local_views.pixels == 255).all()
    half = dataset(**{"pretrain.dense_share": 0.5})
    crops = torch.stack([half[step].cut().global_views.pixels for step in range(50)])
    white = float((crops == 255).flatten(2).all(dim=2).float().mean())
    assert abs(white - 0.5) < 5 * 0.5 / np.sqrt(200)


@pytest.fixture
def photos(photo: Image.Image, tmp_path: Path, make_store: MakeStore, tiny_params: MakeParams) -> Any:
    """Parts of a photograph, all changes of color and windows of dense images among them."""

    def make(part: range | None = None, size: tuple[int, int] = (64, 64)) -> StepDataset:
        images = [photo.crop((20 * i, 25 * i, 20 * i + size[0], 25 * i + size[1])) for i in range(16)]
        folder = tmp_path / f"prepared-{size}"
        if not folder.exists():
            make_store(folder, train=16, images=images, dense=True)
        store, params = Store(folder), tiny_params({"pretrain.dense_share": 0.25})
        return StepDataset(store.images("train"), store.dense("train"), params.base, params.pretrain, part)

    return make


def tensors_of(crops: tuple[Tensor, Tensor, list[PartMasks]]) -> list[Tensor]:
    """Global crops, local crops and masks of a batch that is not split."""
    global_crops, local_crops, (part,) = crops
    return [global_crops, local_crops, part.masks]


@pytest.mark.parametrize("largest_raw", [0, 256])
@pytest.mark.parametrize("parts", [(4, 4), (1, 5, 2)])
def test_parts_put_together_are_the_whole_batch(
    photos: Any, monkeypatch: pytest.MonkeyPatch, largest_raw: int, parts: tuple[int, ...]
) -> None:
    monkeypatch.setattr(loader, "LARGEST_RAW", largest_raw)
    ends = np.cumsum(parts).tolist()
    ranges = [range(end - count, end) for end, count in zip(ends, parts, strict=True)]
    for step in range(2):
        whole = photos()[step]
        pieces = [photos(part)[step] for part in ranges]
        assert {type(batch) for batch in (whole, *pieces)} == {RawBatch if largest_raw else Batch}
        cpu = torch.device("cpu")
        columns = zip(*(tensors_of(batch.crops(cpu)) for batch in (whole, *pieces)), strict=True)
        for expected, *tensors in columns:
            together = [tensor.view(2, len(part), -1) for tensor, part in zip(tensors, ranges, strict=True)]
            assert torch.equal(torch.cat(together, dim=1), expected.view(2, 8, -1))


@pytest.mark.parametrize("size", [(64, 64), (90, 61)])
def test_a_batch_for_a_gpu_holds_the_images(photos: Any, monkeypatch: pytest.MonkeyPatch, size: Any) -> None:
    """Crops are the same, those of windows of dense images among them."""
    monkeypatch.setattr(loader, "LARGEST_RAW", 63)
    data = photos(size=size)
    here, there = data.load(0, {}), data.load(0, {}, for_gpu=True)
    assert isinstance(here, Batch) and isinstance(there, RawBatch) and there.images.shape[1:] == (3,)
    assert same(here.masks, there.masks)
    for one, other in zip(here[:2], there.cut()[:2], strict=True):
        assert same(one.color, other.color)
        assert (one.pixels.int() - other.pixels.int()).abs().max() <= 1


def test_a_loader_that_pins_leaves_the_cutting_to_the_gpu(photos: Any) -> None:
    data = photos(size=(90, 61))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # without a GPU nothing is pinned
        (batch,) = StepLoader(data, 0, 1, workers=0, pin=True)
    assert same(batch, data.load(0, {}, for_gpu=True))
    (batch,) = StepLoader(data, 0, 1, workers=0, pin=False)
    assert same(batch, data[0])


def test_both_ways_to_cut_agree(photos: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The windows of dense images among them are white: those are brought to the size of the others first."""
    at_once = photos()[0]
    monkeypatch.setattr(loader, "LARGEST_RAW", 63)
    one_by_one = photos()[0]
    assert isinstance(at_once, RawBatch) and isinstance(one_by_one, Batch)
    assert same(at_once.masks, one_by_one.masks)
    for one, other in zip(at_once.cut()[:2], one_by_one[:2], strict=True):
        assert same(one.color, other.color)
        assert (one.pixels.int() - other.pixels.int()).abs().max() <= 1
