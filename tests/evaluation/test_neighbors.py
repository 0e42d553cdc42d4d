import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from franca.evaluation.methods.neighbors import nearest
from franca.probes.knn import nearest_neighbors

CPU = torch.device("cpu")


@pytest.mark.parametrize("block", [1, 7, 40, 1000])
@pytest.mark.parametrize("k", [1, 5, 40])
def test_blocks_find_the_neighbors_of_scikit_learn(block: int, k: int) -> None:
    generator = torch.Generator().manual_seed(0)
    train, queries = torch.randn(40, 6, generator=generator), torch.randn(11, 6, generator=generator)
    similarities, rows = nearest(train, queries * 3, k, CPU, block)
    distances, expected = NearestNeighbors(n_neighbors=k, metric="cosine").fit(train.numpy()).kneighbors(queries)
    assert rows.tolist() == expected.tolist()
    torch.testing.assert_close(1 - similarities, torch.from_numpy(distances).float(), atol=1e-5, rtol=1e-5)


def test_the_probe_during_training_finds_the_same() -> None:
    generator = torch.Generator().manual_seed(0)
    train, queries = (torch.nn.functional.normalize(torch.randn(n, 6, generator=generator), dim=1) for n in (50, 9))
    similarities, rows = nearest(train, queries, 4, CPU, 16)
    expected = nearest_neighbors(train, queries, 4)
    assert torch.equal(rows, expected[1])
    torch.testing.assert_close(similarities, expected[0])
