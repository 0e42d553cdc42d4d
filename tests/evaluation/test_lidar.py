import math
from pathlib import Path

import pytest
import torch
from scipy import linalg

from franca.evaluation.benchmarks import lidar as benchmark
from franca.evaluation.features import FeatureExtractor, extract_all
from franca.evaluation.methods.lidar import DELTA, lidar, random_views
from franca.models import Features
from tests.conftest import MakeParams
from tests.evaluation.conftest import MakeStore


def make_features(signal: int, images: int = 400, views: int = 5) -> torch.Tensor:
    """Features of 12 dimensions, of which `signal` tell images apart; the others differ between views only."""
    generator = torch.Generator().manual_seed(0)
    own = torch.randn(images, 1, 12, generator=generator) * (torch.arange(12) < signal)
    return 30 * own + torch.randn(images, views, 12, generator=generator)


@pytest.mark.parametrize("signal", [1, 3, 12])
def test_dimensions_that_tell_images_apart_are_counted(signal: int) -> None:
    assert lidar(make_features(signal)) == pytest.approx(signal, rel=0.05)
    assert lidar(make_features(signal) + 100) == pytest.approx(lidar(make_features(signal)), rel=1e-3)


def test_it_is_the_rank_of_the_discriminants() -> None:
    x = make_features(4, images=60).double()
    means = x.mean(1)
    within = (x - means[:, None]).flatten(0, 1)
    within = within.T @ within / (60 * 4) + DELTA * torch.eye(12)
    values = linalg.eigh(torch.cov(means.T).numpy(), within.numpy(), eigvals_only=True)
    shares = values / values.sum()
    assert lidar(x) == pytest.approx(math.exp(-sum(p * math.log(p) for p in shares)), rel=1e-6)


def test_views_that_all_are_alike_have_rank_1() -> None:
    assert lidar(torch.ones(10, 4, 3)) == 1


def test_a_view_is_a_crop_resized_and_mirrored() -> None:
    ramp = torch.arange(32, dtype=torch.uint8).expand(2, 3, 32, 32).contiguous()
    whole = random_views(ramp, torch.tensor([0.3, 0.9, 1.0, 1.0]))
    assert torch.equal(whole, ramp.flip(-1))
    right = random_views(ramp, torch.tensor([0.0, 1.0, 0.5, 0.0]))
    assert right.shape == ramp.shape and right[..., 0].float().mean() == pytest.approx(16, abs=1)


def test_score_with_interval_and_small_sets(make_store: MakeStore, tiny_params: MakeParams, tmp_path: Path) -> None:
    pixels = FeatureExtractor(
        "pixels", lambda x: Features(x.float().flatten(1)[:, ::7], torch.zeros(len(x), 1, 1, 1)), 8, 8, learned=True
    )
    store = make_store(tmp_path, counts={"train": 4, "val": 20, "test": 3}, dense_counts=None)
    data = extract_all([pixels], store)["pixels"]
    result = benchmark.run(pixels, data, tiny_params())
    (found,) = result.measurements
    assert 1 <= found.low < found.value < found.high and (found.split, found.n) == ("val", 20)
    assert result.skipped == {"test": "fewer than 4 test images"}
    assert benchmark.run(pixels, data, tiny_params()).measurements[0].row == found.row
