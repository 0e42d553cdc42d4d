from collections.abc import Callable
from pathlib import Path

import torch

from franca.data.store.prepared import Store
from franca.evaluation.benchmarks import views
from franca.evaluation.features import Backbone, LeftOut, extract_all
from franca.evaluation.intervals import Measurement
from franca.models import Features
from franca.params import Params
from franca.probes.view_agreement import found, two_views


def test_views_are_opposite_corners_the_second_mirrored() -> None:
    ramp = torch.arange(32, dtype=torch.uint8).expand(2, 3, 32, 32).contiguous()
    first, second = two_views(ramp)
    assert first.shape == second.shape == (2, 3, 32, 32) and first.dtype == torch.uint8
    assert (first[..., 0] <= 1).all() and (first[..., -1] >= 22).all() and (first[..., -1] <= 24).all()
    assert (second[..., 0] >= 30).all() and (second[..., -1] <= 9).all()


def test_an_image_is_found_by_its_other_view() -> None:
    x = torch.eye(5)
    assert found(x, 3 * x).all()
    assert found(x, x[[1, 0, 2, 3, 4]]).tolist() == [False, False, True, True, True]


def test_features_that_ignore_the_image_find_one_by_chance(
    make_store: Callable[..., Store], tiny_params: Callable[..., Params], tmp_path: Path
) -> None:
    params = tiny_params()
    store = make_store(tmp_path, counts={"train": 4, "val": 20, "test": 3}, dense_counts=None)
    same = Backbone("same", lambda x: Features(torch.ones(len(x), 4), torch.zeros(len(x), 1, 1, 4)), 32, 8)
    pixels = Backbone("pixels", lambda x: Features(x.float().mean(3).flatten(1), torch.zeros(len(x), 1, 1, 4)), 32, 8)
    data = extract_all([same, pixels], store)
    score, left_out = views.run(data["same"], params)
    assert isinstance(score, Measurement) and (score.value, score.n, score.split) == (5.0, 20, "val")
    assert left_out == LeftOut("test", "fewer than 4 test images")
    other = next(iter(views.run(data["pixels"], params)))
    assert isinstance(other, Measurement) and other.outcome.images == score.outcome.images
    assert data["same"].parts["train"].views[0].shape[0] == 0
