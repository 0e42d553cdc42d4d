"""Video object segmentation: propagation and scores with known answers, and a data set of moving squares."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import binary_dilation

from franca.data.ingest.prepare import prepare_dataset
from franca.data.store.prepared import Store
from franca.errors import FrancaError
from franca.evaluation.benchmarks import video
from franca.evaluation.features import extract_all
from franca.evaluation.methods.video import (
    attend_frames,
    contour,
    contour_accuracy,
    neighborhood,
    propagate,
    region_similarity,
    stretch,
)
from franca.params import Dataset, Params
from tests.evaluation.test_benchmarks import COLORS

MakeParams = Callable[..., Params]


def square(top: int, left: int, side: int, shape: tuple[int, int] = (40, 60)) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    mask[top : top + side, left : left + side] = True
    return mask


def test_regions_by_hand() -> None:
    assert region_similarity(square(0, 0, 10), square(0, 5, 10)) == pytest.approx(1 / 3)
    assert region_similarity(square(0, 0, 0), square(0, 0, 0)) == 1
    assert region_similarity(square(0, 0, 9), square(0, 0, 0)) == 0


def test_contours_by_hand() -> None:
    mask = square(10, 10, 20)
    assert contour_accuracy(mask, mask) == 1
    assert contour_accuracy(mask, square(10, 10, 0)) == 0 and contour_accuracy(square(0, 0, 0), mask) == 0
    # The tolerance is 0.008 x the diagonal of 72 pixels, rounded up: 1 pixel.
    assert contour_accuracy(mask, square(11, 10, 20)) == 1
    # One side of four in common, and its corners; then two sides but for up to 3 pixels each.
    assert contour_accuracy(mask, square(10, 30, 20)) == pytest.approx(1 / 4, abs=0.05)
    assert 2 * 17 / 80 < contour_accuracy(mask, square(13, 10, 20)) < 2 * 21 / 80
    # The edge of the image is no contour, and a contour is one pixel thick.
    assert not contour(square(0, 0, 60)).any()
    assert contour(mask).sum() == 4 * 20


def test_contours_are_compared_as_by_dilation_with_a_disk() -> None:
    rng = np.random.default_rng(0)
    truth, found = (binary_dilation(rng.random((300, 400)) > 0.9995, iterations=9) for _ in range(2))
    rows, columns = np.ogrid[-4:5, -4:5]
    disk = rows**2 + columns**2 <= 16  # 0.008 x 500
    expected, got = contour(truth), contour(found)
    precision = binary_dilation(expected, disk)[got].mean()
    recall = binary_dilation(got, disk)[expected].mean()
    assert contour_accuracy(truth, found) == pytest.approx(2 * precision * recall / (precision + recall))


def test_only_patches_nearby_pass_on_their_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("franca.evaluation.methods.video.RADIUS", 1)
    near = neighborhood(3, 4)
    assert near[0].view(3, 4).int().tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]]
    assert near.view(3, 4, 3, 4)[1, 2].int().tolist() == [[0, 1, 1, 1]] * 3
    features = torch.ones(12, 2) / 2**0.5
    shares = torch.eye(12)
    found = attend_frames(features, [(features, shares)], near)
    assert (found[~near] == 0).all() and torch.allclose(found.sum(1), torch.ones(12))


def test_shares_are_those_of_all_pairs_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    features, *others = torch.nn.functional.normalize(torch.randn(4, 20, 6, generator=generator), dim=2)
    shares = torch.rand(3, 20, 4, generator=generator)
    found = attend_frames(features, list(zip(others, shares, strict=True)), torch.ones(20, 20, dtype=torch.bool))
    weights = (features @ torch.cat(others).T / 0.1).exp()
    weights[weights < weights.topk(5, dim=1)[0][:, -1:]] = 0
    torch.testing.assert_close(found, weights / weights.sum(1, keepdim=True) @ shares.flatten(0, 1))


def test_an_object_is_followed_through_the_frames() -> None:
    """Patches keep their features while they move by one column each frame."""
    generator = torch.Generator().manual_seed(0)
    world = torch.randn(6, 30, 16, generator=generator)
    frames = [world[:, start : start + 12] for start in range(10)]
    objects = torch.zeros(6, 30, 2)
    objects[2:5, 6:11, 1] = 1
    objects[..., 0] = 1 - objects[..., 1]
    for step, found in enumerate(propagate(frames, objects[:, :12]), 1):
        # Columns that come into view are unlike all others.
        torch.testing.assert_close(found.argmax(2)[:, : 12 - step].float(), objects[:, step:12, 1], atol=0, rtol=0)


def test_shares_are_stretched_to_the_range() -> None:
    shares = torch.tensor([[[0.0, 0.2]], [[0.1, 0.1]], [[0.0, 0.0]], [[0.3, 0.6]]])
    assert stretch(shares).tolist() == [[[0, 1]], [[0, 0]], [[0, 0]], [[0, 1]]]


def make_davis(folder: Path, sequences: int = 2, frames: int = 5) -> Path:
    """Squares of a color of their own that move to the right by 8 pixels each frame."""
    for number in range(sequences):
        for kind in ("JPEGImages", "Annotations"):
            (folder / kind / "480p" / f"s{number}").mkdir(parents=True)
        for frame in range(frames):
            mask = np.zeros((64, 96), dtype=np.uint8)
            mask[16:40, 8 + 8 * frame : 32 + 8 * frame] = 1
            pixels = np.where(mask[..., None] == 1, (70, 80, 210), (200, 60, 60)).astype(np.uint8)
            name = f"480p/s{number}/{frame:05d}"
            Image.fromarray(pixels).save(folder / f"JPEGImages/{name}.jpg", quality=95)
            picture = Image.fromarray(mask * (number + 1))
            picture.putpalette(list(range(256)) * 3)
            picture.save(folder / f"Annotations/{name}.png")
    (folder / "ImageSets/2017").mkdir(parents=True)
    (folder / "ImageSets/2017/val.txt").write_text("".join(f"s{number}\n" for number in range(sequences)))
    return folder


def prepare(folder: Path, store: Path, params: Params) -> dict:
    dataset = Dataset.model_validate({"path": str(folder), "task": "video"})
    return prepare_dataset(dataset, "datasets.davis", params.prepare, store)


def test_a_data_set_of_moving_squares(
    tmp_path: Path, tiny_params: MakeParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video, "SIDE", 64)
    manifest = prepare(make_davis(tmp_path / "DAVIS"), tmp_path / "store", tiny_params())
    assert (manifest["video"]["source"]["layout"], manifest["video"]["counts"]["val"]["images"]) == ("DAVIS 2017", 10)
    assert manifest["video"]["scenes"] == ["s0", "s1"]
    data = extract_all([COLORS], Store(tmp_path / "store"))["colors"]
    assert data.videos["val"].sequences == [range(5), range(5, 10)] and data.videos["test"].sequences == []
    assert np.unique(data.videos["val"].mask(6)).tolist() == [0, 2]
    scores = {score.metric: score for score in video.run(COLORS, data, tiny_params()).measurements}
    assert set(scores) == {"jf", "j", "f"} and {score.split for score in scores.values()} == {"val"}
    assert scores["j"].value > 90 and scores["f"].value > 80 and scores["j"].n == 2
    assert scores["jf"].value == pytest.approx((scores["j"].value + scores["f"].value) / 2, abs=1e-3)


def test_other_folders_and_missing_files_are_one_line(tmp_path: Path, tiny_params: MakeParams) -> None:
    (tmp_path / "other").mkdir()
    with pytest.raises(FrancaError, match=r"other: no ImageSets/2017/val\.txt; videos are read from DAVIS 2017"):
        prepare(tmp_path / "other", tmp_path / "store", tiny_params())
    folder = make_davis(tmp_path / "DAVIS")
    (folder / "ImageSets/2017/val.txt").write_text("s0\nmissing\n")
    with pytest.raises(FrancaError, match=r"val\.txt: missing has no frames; unpack them"):
        prepare(folder, tmp_path / "store", tiny_params())
    (folder / "ImageSets/2017/val.txt").write_text("s0\n")
    (folder / "Annotations/480p/s0/00002.png").unlink()
    with pytest.raises(FrancaError, match=r"1 of 5 images refused.*00002\.jpg: it has no mask"):
        prepare(folder, tmp_path / "store", tiny_params())
