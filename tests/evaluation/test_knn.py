import torch
from torch import Tensor

from franca.probes.knn import knn_predict, nearest_neighbors


def make_features(rows: int, seed: int) -> Tensor:
    return torch.randn(rows, 16, generator=torch.Generator().manual_seed(seed))


def test_neighbors_are_the_most_similar_first() -> None:
    similarities, rows = nearest_neighbors(torch.eye(3), torch.tensor([[0.6, 0.8, 0.0]]), 2)
    torch.testing.assert_close(similarities, torch.tensor([[0.8, 0.6]]))
    assert rows.tolist() == [[1, 0]]


def test_neither_length_nor_chunks_matter() -> None:
    train, queries = make_features(60, 0), make_features(24, 1)
    labels = torch.arange(60) % 7
    plain = knn_predict(train, labels, queries, 7, 20, 0.07)
    scaled = knn_predict(train * 3, labels, queries * torch.rand(24, 1).add(0.5), 7, 20, 0.07, chunk=5)
    torch.testing.assert_close(scaled, plain, rtol=1e-4, atol=1e-6)


def test_fewer_training_rows_than_k_and_no_queries() -> None:
    train, labels = torch.eye(3), torch.tensor([0, 1, 1])
    shares = knn_predict(train, labels, torch.eye(3), 2, k=20, temperature=0.07)
    assert shares.argmax(1).tolist() == [0, 1, 1]
    torch.testing.assert_close(shares.sum(1), torch.ones(3))
    assert knn_predict(train, labels, torch.empty(0, 3), 2, 20, 0.07).shape == (0, 2)
