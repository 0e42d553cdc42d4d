"""Cutting a whole batch by two products, against Pillow's own resizing of one crop after the other."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from franca.data.views import resample
from franca.data.views.crops import BOX_DRAWS, Floats, cut, orient, random_boxes
from franca.data.views.resample import bicubic_weights, cut_batch, cut_flat, plan_cuts

SIZES = [
    (64, 32, (0.4, 1.0)),
    (64, 16, (0.05, 0.4)),
    (48, 112, (0.05, 1.0)),
    (256, 98, (0.05, 0.32)),
    (32, 32, (1.0, 1.0)),
]


def parts_of(photo: Image.Image, side: int, count: int) -> list[Image.Image]:
    """Parts of a photograph; the last picture is black and white noise, the hardest edges there are."""
    places = np.random.default_rng(0).integers(0, (photo.width - side, photo.height - side), (count - 1, 2)).tolist()
    noise = np.random.default_rng(0).choice(np.array([0, 255], dtype=np.uint8), (side, side, 3))
    return [photo.crop((x, y, x + side, y + side)) for x, y in places] + [Image.fromarray(noise)]


def as_tensor(images: list[Image.Image]) -> Tensor:
    return torch.from_numpy(np.stack([np.asarray(image) for image in images]))


def crop_major(transposed: NDArray[np.bool_]) -> Tensor:
    return torch.from_numpy(transposed.T.flatten())


def random_cuts(
    batch: int, crops: int, size: tuple[int, int], scale: tuple[float, float], seed: int = 0
) -> tuple[Floats, NDArray[np.bool_]]:
    rng = np.random.default_rng(seed)
    boxes = random_boxes(rng.random((BOX_DRAWS, batch, crops)), size, np.array([scale] * crops))
    return orient(boxes, rng.random((3, batch, crops)), "dihedral")


@pytest.mark.parametrize(("side", "crop", "scale"), SIZES)
def test_crops_are_pillows_to_within_one_level(
    photo: Image.Image, side: int, crop: int, scale: tuple[float, float]
) -> None:
    images = parts_of(photo, side, 6)
    boxes, transposed = random_cuts(6, 12, (side, side), scale)
    expected = np.stack([cut(*one, crop) for one in zip(images, boxes, transposed, strict=True)], axis=1)
    got = cut_batch(as_tensor(images), torch.from_numpy(boxes).float(), crop_major(transposed), crop)
    assert got.shape == (72, 3, crop, crop) and got.dtype == torch.uint8 and got.is_contiguous()
    differences = np.abs(got.numpy().reshape(expected.shape).astype(int) - expected)
    assert differences.max() <= 1 and differences[:, :-1].mean() < 0.25


def test_images_need_not_be_square(photo: Image.Image) -> None:
    images = [image.crop((0, 0, 64, 40)) for image in parts_of(photo, 64, 3)]
    boxes, transposed = random_cuts(3, 4, (64, 40), (0.1, 1.0))
    expected = np.stack([cut(*one, 24) for one in zip(images, boxes, transposed, strict=True)], axis=1)
    got = cut_batch(as_tensor(images), torch.from_numpy(boxes).float(), crop_major(transposed), 24)
    assert np.abs(got.numpy().reshape(expected.shape).astype(int) - expected).max() <= 1


def test_the_whole_image_at_its_own_size_is_the_image(photo: Image.Image) -> None:
    images = as_tensor(parts_of(photo, 24, 2))
    whole = torch.tensor([0.0, 0.0, 24.0, 24.0]).expand(2, 1, 4)
    upright = images.permute(0, 3, 1, 2)
    assert torch.equal(cut_batch(images, whole, torch.tensor([False, False]), 24), upright)
    assert torch.equal(cut_batch(images, whole, torch.tensor([False, True]), 24)[1], upright[1].mT)
    mirrored = torch.tensor([24.0, 0.0, 0.0, 24.0]).expand(2, 1, 4)
    assert torch.equal(cut_batch(images, mirrored, torch.tensor([False, False]), 24), upright.flip(3))


def test_no_crops(photo: Image.Image) -> None:
    images = as_tensor(parts_of(photo, 24, 2))
    assert cut_batch(images, torch.zeros(2, 0, 4), torch.zeros(0, dtype=torch.bool), 8).shape == (0, 3, 8, 8)
    none = flat(parts_of(photo, 24, 2), [np.zeros((0, 4))] * 2, np.zeros((2, 0), dtype=bool), 8)
    assert none.shape == (0, 2, 3, 8, 8)


def flat(
    images: list[Image.Image], boxes: list[Floats], transposed: NDArray[np.bool_], side: int
) -> NDArray[np.uint8]:
    """Crops (crops, images, 3, side, side) of images of any size; `boxes` (crops, 4) of each, crop by crop."""
    pixels = [np.asarray(image).reshape(-1, 3) for image in images]
    firsts = np.cumsum([0, *map(len, pixels)])[:-1]
    sizes, count = np.array([image.size for image in images]), len(boxes[0])
    plan = plan_cuts(np.stack(boxes, axis=1).reshape(-1, 4), np.tile(sizes, (count, 1)), side, np.tile(firsts, count))
    cut_out = cut_flat(torch.from_numpy(np.concatenate(pixels)), plan, crop_major(transposed), side)
    assert cut_out.dtype == torch.uint8 and cut_out.shape == (count * len(images), 3, side, side)
    return cut_out.unflatten(0, (count, len(images))).numpy()


@pytest.mark.parametrize(("side", "scale"), [(24, (0.05, 1.0)), (96, (0.1, 0.5)), (7, (1.0, 1.0))])
def test_images_of_any_size_are_cut_as_by_pillow(photo: Image.Image, side: int, scale: tuple[float, float]) -> None:
    """Photographs, the hardest edges, the smallest images there are, and boxes up to the images' edges."""
    sizes = [(64, 64), (1, 1), (120, 77), (2, 90), (300, 5), (500, 380)]
    images = [photo.resize(size) for size in sizes]
    images += [parts_of(photo, size, 1)[0] for size in (40, 200)]
    cuts = [random_cuts(1, 4, image.size, scale, seed) for seed, image in enumerate(images)]
    boxes, transposed = [box[0] for box, _ in cuts], np.concatenate([turned for _, turned in cuts])
    got = flat(images, boxes, transposed, side).astype(int)
    for number, image in enumerate(images):
        assert np.abs(got[:, number] - cut(image, boxes[number], transposed[number], side)).max() <= 1


def test_it_makes_no_difference_what_is_cut_at_once(photo: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    images = [photo.resize(size) for size in ((64, 48), (300, 200), (20, 30))]
    cuts = [random_cuts(1, 5, image.size, (0.1, 1.0), seed) for seed, image in enumerate(images)]
    boxes, transposed = [box[0] for box, _ in cuts], np.concatenate([turned for _, turned in cuts])
    together = flat(images, boxes, transposed, 16)
    for chunk in (1, 16 * 100):
        monkeypatch.setattr(resample, "CHUNK", chunk)
        assert (flat(images, boxes, transposed, 16) == together).all()


@pytest.mark.parametrize(("length", "side"), [(8, 20), (20, 8), (8, 8)])
def test_weights_of_a_row_sum_to_one_and_keep_a_slope(length: int, side: int) -> None:
    """Keys' kernel reproduces straight lines where it is not stretched and lies inside the axis."""
    weights = bicubic_weights(torch.tensor([2.0, 0.0]), torch.tensor([6.0, float(length)]), side, length)
    assert weights.shape == (2, side, length)
    torch.testing.assert_close(weights.sum(2), torch.ones(2, side))
    if side >= 4:
        centers = 2 + (torch.arange(side) + 0.5) * 4 / side
        torch.testing.assert_close(weights[0] @ (torch.arange(length) + 0.5), centers)


def test_halving_spreads_the_kernel_over_eight_pixels() -> None:
    weights = bicubic_weights(torch.tensor([0.0]), torch.tensor([16.0]), 8, 16)[0, 3]
    # Distances 1/4, 3/4, 5/4 and 7/4 on either side.
    half = torch.tensor([-0.01171875, -0.03515625, 0.11328125, 0.43359375])
    torch.testing.assert_close(weights[3:11], torch.cat([half, half.flip(0)]))
    assert (weights[:3] == 0).all() and (weights[11:] == 0).all()


def test_a_box_from_its_end_to_its_start_has_its_rows_backwards() -> None:
    low, high = torch.tensor([1.25]), torch.tensor([9.5])
    torch.testing.assert_close(bicubic_weights(high, low, 5, 12), bicubic_weights(low, high, 5, 12).flip(1))
