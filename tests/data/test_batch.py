"""Batches on their way to the device."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils._pytree import tree_leaves, tree_map_only

from franca.data.views.batch import Batch, RawBatch, part_masks
from franca.data.views.multi_crop import MultiCrop
from franca.params import Augment, Crops

AUGMENT = Augment(
    orientation="dihedral",
    jitter=(0.4, 0.4, 0.2, 0.1),
    jitter_probability=0.8,
    gray_probability=0.2,
    blur_probability=(1.0, 0.1, 0.5),
    solarize_probability=0.2,
)
CROPS = Crops(global_scale=(0.4, 1.0), local_count=4, local_size=16, local_scale=(0.1, 0.4))


def make_raw(batch_size: int = 6) -> RawBatch:
    multi_crop, rng = MultiCrop(32, CROPS, AUGMENT), np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (batch_size, 48, 48, 3), dtype=np.uint8))
    cuts = multi_crop.cuts(multi_crop.draw(rng, batch_size, slice(batch_size)), 48)
    masks = torch.from_numpy(rng.random((2 * batch_size, 16)) < 0.3)
    return RawBatch(images, *cuts, part_masks(masks, 2))


def make_flat(batch_size: int = 6) -> RawBatch:
    multi_crop, rng = MultiCrop(32, CROPS, AUGMENT), np.random.default_rng(0)
    images = []
    for width in range(40, 40 + batch_size):
        pixels = Image.fromarray(rng.integers(0, 256, (48, width, 3), dtype=np.uint8))
        images.append((pixels, (0.0, 0.0, float(width), 48.0)))
    cuts = multi_crop.flat_cuts(images, multi_crop.draw(rng, batch_size, slice(batch_size)))
    return RawBatch(*cuts, part_masks(torch.from_numpy(rng.random((2 * batch_size, 16)) < 0.3), 2))


@pytest.fixture(params=["raw", "flat", "cut"])
def batch(request: pytest.FixtureRequest) -> Batch | RawBatch:
    if request.param == "cut":
        return make_raw().cut()
    return make_flat() if request.param == "flat" else make_raw()


def test_crops(batch: Batch | RawBatch) -> None:
    global_crops, local_crops, masks = batch.crops(torch.device("cpu"))
    assert global_crops.shape == (12, 3, 32, 32) and local_crops.shape == (24, 3, 16, 16)
    assert [part.masks.shape for part in masks] == [(6, 16)] * 2
    for crops in (global_crops, local_crops):
        assert crops.dtype == torch.float32 and crops.min() >= 0 and crops.max() <= 1 and crops.std() > 0.1


@pytest.mark.parametrize("make", [make_raw, make_flat])
def test_cut_here_or_on_the_device_is_the_same(make: Callable[[], RawBatch]) -> None:
    device = torch.device("cpu")
    now, later = tree_leaves(make().cut().crops(device)), tree_leaves(make().crops(device))
    assert len(now) == len(later) == 8 and all(map(torch.equal, now, later))


def test_the_parts_masked_patches_and_their_weights() -> None:
    masks = torch.from_numpy(np.random.default_rng(0).random((12, 16)) < 0.3)
    masks[3] = False
    for number, part in enumerate(part_masks(masks, 3)):
        rows = torch.tensor([2 * number, 2 * number + 1, 6 + 2 * number, 7 + 2 * number])
        assert torch.equal(part.masks, masks[rows]) and part.masks.is_contiguous()
        assert torch.equal(torch.zeros(64, dtype=torch.bool).index_fill(0, part.masked, True).view(4, 16), part.masks)
        assert (part.masked.diff() > 0).all() and part.masked.dtype == torch.int64
        expected = [1 / int(mask.sum()) for mask in part.masks for _ in range(int(mask.sum()))]
        torch.testing.assert_close(part.weights, torch.tensor(expected))


def test_nothing_waits_for_the_device(batch: Batch | RawBatch) -> None:
    """Tensors on "meta" have no values: whatever the host would have to read raises."""
    meta = torch.device("meta")
    shapes = [tensor.shape for tensor in tree_leaves(batch.crops(torch.device("cpu")))]
    moved = tree_leaves(batch.crops(meta))
    assert [tensor.shape for tensor in moved] == shapes and all(tensor.device == meta for tensor in moved)


@pytest.mark.gpu
def test_a_gpu_makes_the_same_crops_without_being_waited_for(batch: Batch | RawBatch) -> None:
    pinned = tree_map_only(torch.Tensor, torch.Tensor.pin_memory, batch)
    pinned.crops(torch.device("cuda"))
    torch.cuda.set_sync_debug_mode("error")
    try:
        crops = pinned.crops(torch.device("cuda"))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for one, other in zip(tree_leaves(crops), tree_leaves(batch.crops(torch.device("cpu"))), strict=True):
        # A tie may be rounded to the next level, which the solarized may invert.
        assert (one.cpu().float() - other.float()).abs().mean() < 1e-3
