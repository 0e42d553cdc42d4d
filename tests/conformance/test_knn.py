"""Case 13: the weighted k-nearest-neighbor classifier."""

import pytest

from franca.probes.knn import knn_predict, nearest_neighbors
from tests.conformance.conftest import Case


@pytest.mark.case("13_knn")
def test_neighbors(case: Case) -> None:
    train, queries = case["input/train_features"], case["input/test_features"]
    similarities, rows = nearest_neighbors(train, queries, max(case.parameters["nb_knn"]))
    case.check("neighbour_similarities", similarities)
    case.check("neighbour_labels", case["input/train_labels"][rows])


@pytest.mark.case("13_knn")
def test_probabilities_for_every_k(case: Case) -> None:
    classes, temperature, max_k = case.parameters["num_classes"], case.parameters["T"], max(case.parameters["nb_knn"])
    train, labels = case["input/train_features"], case["input/train_labels"]
    queries, truth = case["input/test_features"], case["input/test_labels"]
    for name in case.names("expected/probs."):
        # Alone, a k has no more neighbors than itself.
        k, alone = int(name.removeprefix("k").removesuffix("_alone")), name.endswith("_alone")
        shares = knn_predict(
            train, labels, queries, classes, k, temperature, max_k=None if alone else max_k, chunk=max_k
        )
        case.check(f"probs.{name}", shares)
        if not alone:
            top1 = shares.argmax(dim=1)
            case.check(f"top1.{name}", top1)
            case.check(f"accuracy.{name}", (top1 == truth).float().mean())
