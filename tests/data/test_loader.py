from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from franca.data.loader import Batch, StepDataset, step_loader
from franca.data.store import Store
from tests.conftest import MakeParams, MakeStore

IMAGES = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, make_store: MakeStore) -> Path:
    """Image i has the gray level 20 i all over; the dense images are white."""
    images = [Image.new("RGB", (24, 20), (20 * i,) * 3) for i in range(IMAGES)]
    return make_store(tmp_path_factory.mktemp("prepared"), train=IMAGES, images=images, dense=True)


@pytest.fixture
def dataset(folder: Path, tiny_params: MakeParams) -> Any:
    def make(**changes: Any) -> StepDataset:
        still = {
            "pretrain.dense_share": 0.0,
            "pretrain.augment.jitter_probability": 0.0,
            "pretrain.batch_size": 4,
        }
        params = tiny_params(still | changes)
        store = Store(folder)
        return StepDataset(store.images("train"), store.dense("train"), params.base, params.pretrain)

    return make


def levels(views: tuple[torch.Tensor, ...]) -> list[int]:
    """Which image each crop is of."""
    return [int(pixels.float().mean().round()) // 20 for pixels in views[0]]


def same(first: Batch, second: Batch) -> bool:
    parts = zip((*first[0], *first[1], first[2]), (*second[0], *second[1], second[2]), strict=True)
    return all(torch.equal(a, b) for a, b in parts)


def test_shapes_and_types(dataset: Any) -> None:
    batch = dataset()[0]
    global_crops, local_crops, masks = batch.crops(torch.device("cpu"))
    assert global_crops.shape == (8, 3, 32, 32) and local_crops.shape == (8, 3, 16, 16)
    assert global_crops.dtype == local_crops.dtype == torch.float32
    assert global_crops.min() >= 0 and global_crops.max() <= 1
    assert masks.shape == (8, 16) and masks.dtype == torch.bool and masks.any(dim=1).sum() == 4


def test_no_local_crops(dataset: Any) -> None:
    _, local_crops, _ = dataset(**{"pretrain.crops.local_count": 0})[0].crops(torch.device("cpu"))
    assert local_crops.shape == (0, 3, 16, 16)


def test_crops_of_an_image_lie_a_batch_apart(dataset: Any) -> None:
    batch = dataset(**{"pretrain.crops.local_count": 3})[0]
    first, second = np.array(levels(batch.global_views)).reshape(2, 4)
    assert (first == second).all() and len(set(first)) == 4
    assert (np.array(levels(batch.local_views)).reshape(3, 4) == first).all()


@pytest.mark.parametrize("batch_size", [4, 5])
def test_every_image_comes_once_an_epoch(dataset: Any, batch_size: int) -> None:
    data = dataset(**{"pretrain.batch_size": batch_size})
    order = [level for step in range(batch_size * 3) for level in levels(data[step].global_views)[:batch_size]]
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
    alone = list(step_loader(data, 0, 6, workers=0, pin=False))
    assert all(same(a, b) for a, b in zip(step_loader(data, 0, 6, workers=2, pin=False), alone, strict=True))
    assert all(same(a, b) for a, b in zip(step_loader(data, 3, 6, workers=0, pin=False), alone[3:], strict=True))
    assert list(step_loader(data, 6, 6, workers=0, pin=False)) == []


def test_windows_of_dense_images_take_the_asked_share(dataset: Any) -> None:
    windows = dataset(**{"pretrain.dense_share": 1.0})[0]
    assert (windows.global_views[0] == 255).all() and (windows.local_views[0] == 255).all()
    half = dataset(**{"pretrain.dense_share": 0.5})
    white = np.mean([(half[step].global_views[0].flatten(1) == 255).all(dim=1).numpy() for step in range(50)])
    assert abs(white - 0.5) < 5 * 0.5 / np.sqrt(200)
