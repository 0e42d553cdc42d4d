from pathlib import Path

import torch
from safetensors.torch import load_file

from franca.evaluation.knn import knn_predict

VECTORS = Path(__file__).parents[1] / "conformance/vectors/13_knn.safetensors"


def test_official_probabilities_for_every_k() -> None:
    case = load_file(VECTORS)
    train, labels = case["input/train_features"], case["input/train_labels"]
    queries = case["input/test_features"]
    for key, k, max_k in (("k10", 10, 20), ("k20", 20, 20), ("k10_alone", 10, None)):
        shares = knn_predict(train, labels, queries, 7, k, 0.07, max_k=max_k, chunk=5)
        torch.testing.assert_close(shares, case[f"expected/probs.{key}"], rtol=1e-4, atol=1e-6)
        if key != "k10_alone":
            top1 = shares.argmax(1)
            assert torch.equal(top1, case[f"expected/top1.{key}"])
            accuracy = (top1 == case["input/test_labels"]).float().mean()
            torch.testing.assert_close(accuracy, case[f"expected/accuracy.{key}"])


def test_length_of_features_does_not_matter() -> None:
    case = load_file(VECTORS)
    train, labels, queries = case["input/train_features"], case["input/train_labels"], case["input/test_features"]
    plain = knn_predict(train, labels, queries, 7, 20, 0.07)
    scaled = knn_predict(train * 3, labels, queries * torch.rand(24, 1).add(0.5), 7, 20, 0.07)
    torch.testing.assert_close(scaled, plain, rtol=1e-4, atol=1e-6)


def test_fewer_training_rows_than_k_and_no_queries() -> None:
    train, labels = torch.eye(3), torch.tensor([0, 1, 1])
    shares = knn_predict(train, labels, torch.eye(3), 2, k=20, temperature=0.07)
    assert shares.argmax(1).tolist() == [0, 1, 1]
    torch.testing.assert_close(shares.sum(1), torch.ones(3))
    assert knn_predict(train, labels, torch.empty(0, 3), 2, 20, 0.07).shape == (0, 2)
