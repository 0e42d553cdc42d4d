from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from franca.data.store.prepared import SPLITS, SplitName, Store
from franca.evaluation.benchmarks import knn, linear, position, segmentation
from franca.evaluation.features import Backbone, Dataset, Part, Skipped, evenly_spaced, extract_all
from franca.evaluation.intervals import Measurement
from franca.models import Features
from franca.params import Params

MakeParams = Callable[..., Params]
MakeStore = Callable[..., Store]


def _colors(images: Tensor) -> Features:
    """Mean color of the image and of each 8 x 8 patch, in [0, 1]."""
    patches = images.float().unfold(2, 8, 8).unfold(3, 8, 8).mean((4, 5)).permute(0, 2, 3, 1) / 255
    return Features(patches.mean((1, 2)), patches)


def _numbers(images: Tensor) -> Features:
    return Features(torch.zeros(len(images), 4), torch.zeros(len(images), 4, 4, 4))


def _grid(count: int, patches: Callable[[Tensor], Tensor]) -> Dataset:
    """A dataset whose patch features are made of the patches' places (N, 4, 4, 2)."""
    parts: dict[SplitName, Part] = {}
    for split in SPLITS:
        places = position.places(torch.empty(count, 4, 4, 1))
        parts[split] = Part(torch.empty(count, 0), torch.full((count,), -1), patches(places))
    return Dataset([], parts)


COLORS = Backbone("colors", _colors, image_size=32, patch_size=8, levels=(1, 3))


def test_accuracy_on_classes_of_distinct_colors(
    make_store: MakeStore, tiny_params: MakeParams, tmp_path: Path
) -> None:
    params = tiny_params({"evaluate.knn_k": 5})
    data = extract_all([COLORS], make_store(tmp_path))["colors"]
    scores = [*knn.run(COLORS, data, params), *linear.run(COLORS, data, params)]
    found = {
        (score.benchmark, score.split, score.metric): (score.value, score.n)
        for score in scores
        if isinstance(score, Measurement)
    }
    counts: dict[SplitName, int] = {"val": 9, "test": 12}
    for split, count in counts.items():
        assert found["knn", split, "top1"] == (100.0, count)
        assert found["linear", split, "top1"] == (100.0, count)
        assert found["knn_levels", split, "top1_3"] == found["knn", split, "top1"]
        assert found["knn_levels", split, "top1_1"][0] < 100


def test_images_without_a_label_do_not_count(make_store: MakeStore, tiny_params: MakeParams, tmp_path: Path) -> None:
    params = tiny_params()
    data = extract_all([COLORS], make_store(tmp_path, labeled=("train", "val")))["colors"]
    assert {score.split for score in knn.run(COLORS, data, params) if isinstance(score, Measurement)} == {"val"}
    data = extract_all([COLORS], make_store(tmp_path / "other", labeled=("train", "test")))["colors"]
    assert {score.split for score in knn.run(COLORS, data, params) if isinstance(score, Measurement)} == {"test"}
    with pytest.raises(Skipped, match="the val images have no labels"):
        list(linear.run(COLORS, data, params))


def test_segmentation_of_a_separable_set(make_store: MakeStore, tiny_params: MakeParams, tmp_path: Path) -> None:
    store = make_store(tmp_path)
    segmenter, scores = segmentation.run(COLORS, store, tiny_params())
    found = [score for score in scores if isinstance(score, Measurement)]
    assert {(score.split, score.metric, score.n): score.value for score in found} == {
        ("val", "miou", 2): 100.0,
        ("val", "pixel_accuracy", 2): 100.0,
        ("test", "miou", 3): 100.0,
        ("test", "pixel_accuracy", 3): 100.0,
    }
    images = store.dense("test")
    assert images is not None
    mask = segmenter(images[0]).numpy()
    assert mask.shape == (64, 96)
    assert (mask[:, :40] == 0).all() and (mask[:, 56:] == 1).all()


@pytest.mark.parametrize(("size", "grid"), [(64, (8, 12)), (32, (4, 6)), (30, (4, 6)), (4, (1, 1))])
def test_dense_images_are_brought_to_whole_patches(
    make_store: MakeStore, tmp_path: Path, size: int, grid: tuple[int, int]
) -> None:
    images = make_store(tmp_path).dense("val")
    assert images is not None
    assert segmentation.patch_features(COLORS, images[0], size).shape == (*grid, 3)


def test_position_is_read_where_it_is_written(tiny_params: MakeParams) -> None:
    mix = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
    data = _grid(20, lambda places: places @ mix)
    for score in position.run(COLORS, data, tiny_params()):
        assert score.value == pytest.approx(100, abs=0.1)
    row_only = _grid(20, lambda places: places[..., :1])
    assert [score.value for score in position.run(COLORS, row_only, tiny_params())] == pytest.approx([50, 50], abs=0.1)


def test_position_is_not_read_from_noise(tiny_params: MakeParams) -> None:
    generator = torch.Generator().manual_seed(0)
    noise = _grid(200, lambda places: torch.randn(200, 4, 4, 8, generator=generator))
    for score in position.run(COLORS, noise, tiny_params()):
        assert 0 <= score.low <= score.value < 1


def test_a_single_patch_has_no_position(make_store: MakeStore, tiny_params: MakeParams, tmp_path: Path) -> None:
    whole = Backbone("whole", lambda x: Features(x.float().mean((2, 3)), torch.ones(len(x), 1, 1, 3)), 8, 8)
    data = extract_all([whole], make_store(tmp_path))["whole"]
    with pytest.raises(Skipped, match="single row or column"):
        list(position.run(whole, data, tiny_params()))


def test_features_of_images_of_other_sizes_and_of_none(make_store: MakeStore, tmp_path: Path) -> None:
    native = Backbone("native", _numbers, 32, 8, native=lambda images: images.float().mean((2, 3)))
    store = make_store(tmp_path, counts={"train": 200, "val": 0, "test": 3})
    data = extract_all([native, COLORS], store)
    assert data["native"].parts["train"].pooled.shape == (200, 3)
    assert data["colors"].parts["train"].patches.shape == (200, 4, 4, 3)
    assert len(data["colors"].parts["val"].pooled) == 0
    assert data["colors"].parts["test"].labels.tolist() == [0, 1, 2]
    torch.testing.assert_close(
        data["native"].parts["test"].pooled[0], torch.tensor([200.0, 60.0, 60.0]), atol=3, rtol=0
    )


def test_evenly_spaced_rows() -> None:
    assert evenly_spaced(18, 6).tolist() == [0, 3, 7, 10, 14, 17]
    assert evenly_spaced(3, 6).tolist() == [0, 1, 2]
    assert np.array_equal(evenly_spaced(1, 4), [0])
