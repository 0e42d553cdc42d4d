import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from franca.evaluation.methods.knn_votes import knn_classes
from franca.probes.knn import knn_predict

KS = (1, 5, 40)


def make_data() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(6, (80,), generator=generator)
    train = torch.randn(80, 8, generator=generator) + torch.nn.functional.one_hot(labels, 8)
    return train, labels, torch.randn(30, 8, generator=generator)


def test_classes_are_those_of_the_probe_and_of_scikit_learn() -> None:
    train, labels, queries = make_data()
    found = knn_classes(train, labels, queries, 6, KS, 0.07)
    for k in KS:
        same = knn_predict(train, labels, queries, 6, k, 0.07, max_k=max(KS)).argmax(1)
        assert found[k].classes.tolist() == same.tolist()
        other = KNeighborsClassifier(
            k, metric="cosine", algorithm="brute", weights=lambda distance: np.exp((1 - distance) / 0.07)
        )
        assert found[k].classes.tolist() == other.fit(train.numpy(), labels.numpy()).predict(queries.numpy()).tolist()


def test_chunks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    train, labels, queries = make_data()
    whole = knn_classes(train, labels, queries, 6, KS, 0.07)
    monkeypatch.setattr("franca.evaluation.methods.knn_votes.QUERIES", 7)
    parts = knn_classes(train, labels, queries, 6, KS, 0.07)
    assert all(parts[k].classes.tolist() == whole[k].classes.tolist() for k in KS)
