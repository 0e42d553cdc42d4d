"""Crops of a step's images: what they are made of, and that both ways to cut them give the same."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils._pytree import tree_leaves

from franca.data.views.crops import Floats, random_boxes
from franca.data.views.multi_crop import Draws, Frame, MultiCrop
from franca.params import Augment, Crops

BATCH = 4


def make_multi_crop(local_count: int = 3, orientation: str = "dihedral") -> MultiCrop:
    crops = {"global_scale": (0.4, 1), "local_count": local_count, "local_size": 16, "local_scale": (0.1, 0.4)}
    augment = {
        "orientation": orientation,
        "jitter": (0.4, 0.4, 0.2, 0.1),
        "jitter_probability": 0.8,
        "gray_probability": 0.2,
        "blur_probability": (1.0, 0.1, 0.5),
        "solarize_probability": 0.5,
    }
    return MultiCrop(32, Crops.model_validate(crops), Augment.model_validate(augment))


def make_draws(multi_crop: MultiCrop, part: slice = slice(BATCH), seed: int = 0) -> Draws:
    return multi_crop.draw(np.random.default_rng(seed), BATCH, part)


@pytest.fixture
def images(photo: Image.Image) -> list[tuple[Image.Image, Frame]]:
    """Squares of a photograph."""
    whole = (0, 0, 64, 64)
    return [(photo.crop((100 * i, 90 * i, 100 * i + 64, 90 * i + 64)), whole) for i in range(BATCH)]


def as_tensor(images: list[tuple[Image.Image, Frame]]) -> Tensor:
    return torch.from_numpy(np.stack([np.asarray(image) for image, _ in images]))


def same(first: Any, second: Any) -> bool:
    pairs = zip(tree_leaves(first), tree_leaves(second), strict=True)
    return all(torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in pairs)


@pytest.mark.parametrize("local_count", [0, 3])
def test_shapes_and_types(images: list[tuple[Image.Image, Frame]], local_count: int) -> None:
    multi_crop = make_multi_crop(local_count)
    views = multi_crop.views(images, make_draws(multi_crop))
    for view, count, side in zip(views, (2, local_count), (32, 16), strict=True):
        assert view.pixels.shape == (count * BATCH, 3, side, side) and view.pixels.dtype == torch.uint8
        assert view.color.matrix.shape == (count * BATCH, 3, 3) and view.color.matrix.dtype == torch.float32
        assert view.color.pull.shape == (count * BATCH,) and view.color.pull.dtype == torch.float32
        assert view.color.sigma.dtype == torch.float32 and view.color.blurred.dtype == torch.int64
    first_global, second_global = views[0].color.blurred < BATCH, views[0].color.blurred >= BATCH
    assert first_global.sum() == BATCH and second_global.sum() < BATCH
    assert (views[0].color.solarized >= BATCH).all() and len(views[1].color.solarized) == 0


@pytest.mark.parametrize("local_count", [0, 3])
def test_images_of_any_size_are_cut_later_to_the_same_crops(photo: Image.Image, local_count: int) -> None:
    """Frames within an image see what lies around them, and only the pixels that are needed are kept."""
    multi_crop = make_multi_crop(local_count)
    draws = make_draws(multi_crop)
    frames: list[Frame] = [(0, 0, 512, 600), (200.5, 90.25, 300, 160.75), (0, 500, 30, 600), (7, 7, 9, 8)]
    images = [(photo, frame) for frame in frames]
    pixels, *cuts = multi_crop.flat_cuts(images, draws)
    assert len(pixels) < 1.2 * 512 * 600
    for one, later in zip(multi_crop.views(images, draws), cuts, strict=True):
        other = later.cut(pixels)
        assert same(one.color, other.color) and one.pixels.shape == other.pixels.shape
        assert not len(one.pixels) or (one.pixels.int() - other.pixels.int()).abs().max() <= 1


@pytest.mark.parametrize("orientation", ["flip", "dihedral"])
def test_both_ways_cut_the_same_crops(images: list[tuple[Image.Image, Frame]], orientation: str) -> None:
    multi_crop = make_multi_crop(orientation=orientation)
    draws = make_draws(multi_crop)
    for one, cuts in zip(multi_crop.views(images, draws), multi_crop.cuts(draws, 64), strict=True):
        other = cuts.cut(as_tensor(images))
        assert same(one.color, other.color)
        assert (one.pixels.int() - other.pixels.int()).abs().max() <= 1
        assert one.pixels.float().std() > 30


def test_a_frame_counts_as_the_image(images: list[tuple[Image.Image, Frame]]) -> None:
    """But for the border, where the filter sees what lies beyond the frame."""
    multi_crop = make_multi_crop()
    draws = make_draws(multi_crop)
    framed = []
    for image, _ in images:
        sheet = Image.new("RGB", (100, 90), image.getpixel((32, 32)))
        sheet.paste(image, (20, 10))
        framed.append((sheet, (20.0, 10.0, 84.0, 74.0)))
    for one, other in zip(multi_crop.views(images, draws), multi_crop.views(framed, draws), strict=True):
        assert (one.pixels.int() - other.pixels.int())[:, :, 3:-3, 3:-3].abs().max() <= 1


@pytest.mark.parametrize("size", [(64, 64), (110, 91), (330, 240), (70, 900), (2000, 1500)])
def test_no_crop_is_enlarged_because_its_image_was_shrunk(size: tuple[int, int]) -> None:
    multi_crop = make_multi_crop()
    chosen = set()
    for seed in range(40):
        box = make_draws(multi_crop, seed=seed).box[:, 0]
        shrink = multi_crop.shrink(box, size)
        chosen.add(shrink)
        smallest = smallest_of_crops(box, size)
        assert shrink == 1 or smallest >= shrink
        assert shrink == 8 or smallest < 2 * shrink
    expected = {(64, 64): {1}, (110, 91): {1, 2}, (330, 240): {4}, (70, 900): {2}, (2000, 1500): {8}}
    assert chosen == expected[size]


def smallest_of_crops(box: Floats, size: tuple[int, int]) -> float:
    """The shortest side of a box, in multiples of its crop's: below 1 it is enlarged."""
    scales = np.array([(0.4, 1.0)] * 2 + [(0.1, 0.4)] * 3)
    boxes = random_boxes(box, size, scales)
    return float(((boxes[:, 2:] - boxes[:, :2]).min(axis=1) / (32, 32, 16, 16, 16)).min())


def test_crops_of_a_shrunk_image_are_those_of_the_whole_one(photo: Image.Image) -> None:
    multi_crop = make_multi_crop()
    draws = make_draws(multi_crop)
    large, odd = photo.resize((499, 377)), (499, 377)
    shrinks = [multi_crop.shrink(draws.box[:, row], odd) for row in range(BATCH)]
    assert max(shrinks) > 2
    whole = [(large, (0.0, 0.0, 499.0, 377.0))] * BATCH
    shrunk = [(large.reduce(shrink), (0.0, 0.0, 499 / shrink, 377 / shrink)) for shrink in shrinks]
    for one, other in zip(multi_crop.views(whole, draws), multi_crop.views(shrunk, draws), strict=True):
        assert (one.pixels.int() - other.pixels.int()).abs().float().mean() < 3
        assert same(one.color, other.color)


@pytest.mark.parametrize("parts", [(2, 2), (1, 3)])
def test_each_part_of_a_batch_gets_its_own_draws(parts: tuple[int, int]) -> None:
    multi_crop = make_multi_crop()
    first, second = (make_draws(multi_crop, part) for part in (slice(0, parts[0]), slice(parts[0], BATCH)))
    for numbers, *pieces in zip(make_draws(multi_crop), first, second, strict=True):
        assert (np.concatenate(pieces, axis=1) == numbers).all()


def test_draws_are_the_seeds() -> None:
    multi_crop = make_multi_crop()
    assert same(multi_crop.cuts(make_draws(multi_crop), 64), multi_crop.cuts(make_draws(multi_crop), 64))
    assert not same(multi_crop.cuts(make_draws(multi_crop), 64), multi_crop.cuts(make_draws(multi_crop, seed=1), 64))
