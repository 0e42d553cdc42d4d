import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from franca.data.store.prepared import Store
from franca.evaluation.benchmarks import rank
from franca.evaluation.features import Backbone, LeftOut, extract_all
from franca.evaluation.intervals import Measurement
from franca.models import Features
from franca.params import Params
from franca.probes.effective_rank import rankme


def test_rank_counts_the_dimensions_that_features_fill() -> None:
    directions = torch.linalg.qr(torch.randn(16, 16))[0]
    spread = torch.cat([directions[:5], -directions[:5]])
    assert rankme(spread) == pytest.approx(5, rel=1e-4)
    assert rankme(spread + 100) == pytest.approx(5, rel=1e-4)
    assert rankme(torch.ones(10, 16)) == pytest.approx(1)


@pytest.mark.parametrize("shape", [(40, 8), (8, 40)])
def test_rank_is_that_of_the_singular_values(shape: tuple[int, int]) -> None:
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals((x - x.mean(0)).double())
    shares = values / values.sum()
    assert rankme(x) == pytest.approx(math.exp(-sum(float(p * p.log()) for p in shares if p > 1e-12)), rel=1e-6)


def test_two_directions_by_hand() -> None:
    """Singular values 3 and 1 after centering: p = 3/4 and 1/4."""
    x = torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    assert rankme(x) == pytest.approx(math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25)))


def test_interval_and_small_sets(
    make_store: Callable[..., Store], tiny_params: Callable[..., Params], tmp_path: Path
) -> None:
    params = tiny_params()
    pixels = Backbone("pixels", lambda x: Features(x.float().flatten(1), torch.zeros(len(x), 1, 1, 1)), 8, 8)
    store = make_store(tmp_path, counts={"train": 4, "val": 20, "test": 3}, dense_counts=None)
    data = extract_all([pixels], store)["pixels"]
    found, left_out = rank.run(data, params)
    assert isinstance(found, Measurement) and found.low < found.value < found.high
    assert (found.split, found.n, found.value) == ("val", 20, round(rankme(data.parts["val"].pooled), 4))
    assert left_out == LeftOut("test", "fewer than 4 test images")
    again = next(iter(rank.run(data, params)))
    assert isinstance(again, Measurement) and again.row == found.row
