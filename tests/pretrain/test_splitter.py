"""Batches of the loader become normalized parts on the device, without work or waiting on the training thread."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from franca.data.views.batch import Batch, RawBatch, part_masks
from franca.data.views.multi_crop import MultiCrop
from franca.models.model import normalize
from franca.params import ResolvedParams
from franca.pretrain.microbatch import Splitter
from tests.conftest import MakeParams

IMAGES = 6


@pytest.fixture
def params(tiny_params: MakeParams) -> ResolvedParams:
    return tiny_params({"pretrain.augment.blur_probability": [1.0, 0.1, 0.5]})


@pytest.fixture(params=["raw", "flat", "cut"])
def make_batch(request: pytest.FixtureRequest, params: ResolvedParams) -> Any:
    def make(count: int) -> Batch | RawBatch:
        multi_crop = MultiCrop(32, params.pretrain.crops, params.pretrain.augment)
        rng = np.random.default_rng(0)
        images = torch.from_numpy(rng.integers(0, 256, (IMAGES, 48, 48, 3), dtype=np.uint8))
        draws = multi_crop.draw(rng, IMAGES, slice(IMAGES))
        masks = part_masks(torch.from_numpy(rng.random((2 * IMAGES, 16)) < 0.3), count)
        if request.param == "flat":
            pictures = [(Image.fromarray(pixels), (0.0, 0.0, 48.0, 48.0)) for pixels in images.numpy()]
            return RawBatch(*multi_crop.flat_cuts(pictures, draws), masks)
        raw = RawBatch(images, *multi_crop.cuts(draws, 48), masks)
        return raw if request.param == "raw" else raw.cut()

    return make


@pytest.mark.parametrize("count", [1, 2, 3])
def test_parts_are_normalized_crops_of_consecutive_images(make_batch: Any, params: ResolvedParams, count: int) -> None:
    cpu = torch.device("cpu")
    parts = Splitter(params.base, cpu)(make_batch(count))
    global_crops, local_crops, (masks,) = make_batch(1).crops(cpu)
    assert len(parts) == count
    for number, part in enumerate(parts):
        rows = slice(number * IMAGES // count, (number + 1) * IMAGES // count)
        for crops, whole in ((part.global_crops, global_crops), (part.local_crops, local_crops)):
            expected = whole.unflatten(0, (2, IMAGES))[:, rows].flatten(0, 1)
            assert torch.equal(crops, normalize(expected, params.base.mean, params.base.std))
        assert torch.equal(part.masks, masks.masks.unflatten(0, (2, IMAGES))[:, rows].flatten(0, 1))
        assert torch.equal(part.masked, part.masks.flatten().nonzero()[:, 0])
        assert len(part.mask_weights) == len(part.masked)


def test_without_local_crops(tiny_params: MakeParams) -> None:
    params = tiny_params({"pretrain.crops.local_count": 0})
    multi_crop = MultiCrop(32, params.pretrain.crops, params.pretrain.augment)
    rng = np.random.default_rng(0)
    cuts = multi_crop.cuts(multi_crop.draw(rng, 4, slice(4)), 48)
    batch = RawBatch(torch.zeros(4, 48, 48, 3, dtype=torch.uint8), *cuts, part_masks(torch.ones(8, 16) > 0, 2))
    parts = Splitter(params.base, torch.device("cpu"))(batch)
    assert [part.local_crops.shape for part in parts] == [(0, 3, 16, 16)] * 2


class Uploads(TorchDispatchMode):
    """Fails on work with tensors of the host; counts copies of tensors that are not in `pinned` to the device."""

    def __init__(self, pinned: list[Tensor]) -> None:
        super().__init__()
        self._pinned = pinned
        self.others = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in tree_leaves((args, kwargs)):
            if isinstance(tensor, Tensor) and tensor.device.type == "cpu":
                assert func is torch.ops.aten._to_copy.default, func
                assert kwargs["non_blocking"]
                self.others += not any(tensor is known for known in self._pinned)
        return func(*args, **(kwargs or {}))


def test_only_the_loaders_own_tensors_are_uploaded(make_batch: Any, params: ResolvedParams) -> None:
    """The loader pins these. A copy of any other host tensor would block the training thread."""
    batch = make_batch(3)
    split = Splitter(params.base, torch.device("meta"))
    with Uploads(tree_leaves(batch)) as uploads:
        parts = split(batch)
    assert uploads.others == 0
    assert all(tensor.device.type == "meta" for tensor in tree_leaves(parts))


def test_nothing_is_read_back_from_a_gpu(make_batch: Any, params: ResolvedParams) -> None:
    """Fake tensors act as if on a GPU, and raise on a value that the host reads and on a mix of devices."""
    batch = make_batch(3)
    with FakeTensorMode() as mode:
        device = torch.device("cuda:0")
        split = Splitter(params.base, device)
        parts = split(tree_map_only(Tensor, mode.from_tensor, batch))
        assert all(tensor.device == device for tensor in tree_leaves(parts))
    assert [part.masked.shape for part in parts] == [masks.masked.shape for masks in batch.masks]
