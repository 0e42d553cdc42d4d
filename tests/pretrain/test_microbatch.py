"""Batches of the loader become normalized microbatches on the device without blocking the training thread."""

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
from franca.pretrain.microbatch import MicrobatchSplitter
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
            return RawBatch(*multi_crop.flat_specs(pictures, draws), masks)
        raw = RawBatch(images, *multi_crop.specs(draws, 48), masks)
        return raw if request.param == "raw" else raw.make_crops()

    return make


@pytest.mark.parametrize("count", [1, 2, 3])
def test_microbatches_are_normalized_crops_of_consecutive_images(
    make_batch: Any, params: ResolvedParams, count: int
) -> None:
    cpu = torch.device("cpu")
    microbatches = MicrobatchSplitter(params.base, cpu)(make_batch(count))
    global_crops, local_crops, (masks,) = make_batch(1).crops(cpu)
    assert len(microbatches) == count
    for number, microbatch in enumerate(microbatches):
        rows = slice(number * IMAGES // count, (number + 1) * IMAGES // count)
        for crops, whole in ((microbatch.global_crops, global_crops), (microbatch.local_crops, local_crops)):
            expected = whole.unflatten(0, (2, IMAGES))[:, rows].flatten(0, 1)
            assert torch.equal(crops, normalize(expected, params.base.mean, params.base.std))
        assert torch.equal(microbatch.masks, masks.masks.unflatten(0, (2, IMAGES))[:, rows].flatten(0, 1))
        assert torch.equal(microbatch.masked, microbatch.masks.flatten().nonzero()[:, 0])
        assert len(microbatch.mask_weights) == len(microbatch.masked)


def test_without_local_crops(tiny_params: MakeParams) -> None:
    params = tiny_params({"pretrain.crops.local_count": 0})
    multi_crop = MultiCrop(32, params.pretrain.crops, params.pretrain.augment)
    rng = np.random.default_rng(0)
    cuts = multi_crop.specs(multi_crop.draw(rng, 4, slice(4)), 48)
    batch = RawBatch(torch.zeros(4, 48, 48, 3, dtype=torch.uint8), *cuts, part_masks(torch.ones(8, 16) > 0, 2))
    microbatches = MicrobatchSplitter(params.base, torch.device("cpu"))(batch)
    assert [microbatch.local_crops.shape for microbatch in microbatches] == [(0, 3, 16, 16)] * 2


class Uploads(TorchDispatchMode):
    """Fails on operations on host tensors; counts uploads of tensors that are not in `pinned`."""

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
    split = MicrobatchSplitter(params.base, torch.device("meta"))
    with Uploads(tree_leaves(batch)) as uploads:
        microbatches = split(batch)
    assert uploads.others == 0
    assert all(tensor.device.type == "meta" for tensor in tree_leaves(microbatches))


def test_nothing_is_read_back_from_a_gpu(make_batch: Any, params: ResolvedParams) -> None:
    """Fake tensors behave as if on a GPU; reading a value on the host or mixing devices raises an error."""
    batch = make_batch(3)
    with FakeTensorMode() as mode:
        device = torch.device("cuda:0")
        split = MicrobatchSplitter(params.base, device)
        microbatches = split(tree_map_only(Tensor, mode.from_tensor, batch))
        assert all(tensor.device == device for tensor in tree_leaves(microbatches))
    assert [microbatch.masked.shape for microbatch in microbatches] == [masks.masked.shape for masks in batch.masks]
