"""Weighted k-NN of pooled features against the training images, whole and cut to each Matryoshka level."""

from collections.abc import Iterator

from torch import Tensor

from franca.data.store import SplitName
from franca.evaluation.features import Backbone, Dataset
from franca.evaluation.intervals import Score, accuracy_score
from franca.evaluation.knn import knn_predict
from franca.params import Params


def run(backbone: Backbone, data: Dataset, params: Params) -> Iterator[Score]:
    """top1 of benchmark `knn`, and top1_D of `knn_levels` on the first D features for each level D."""
    whole = data.labeled("train")[0].shape[1]
    for split in data.splits(labeled=True):
        for width in backbone.levels or (whole,):
            predicted, labels = predict(data, split, params, width)
            if backbone.levels:
                yield accuracy_score("knn_levels", split, f"top1_{width}", predicted == labels, params)
            if width == whole:
                yield accuracy_score("knn", split, "top1", predicted == labels, params)


def predict(data: Dataset, split: SplitName, params: Params, width: int | None = None) -> tuple[Tensor, Tensor]:
    """Predicted and true classes (N,) of a split's labeled images, from their first `width` features."""
    train, labels = data.labeled("train")
    queries, truth = data.labeled(split)
    shares = knn_predict(
        train[:, :width],
        labels,
        queries[:, :width],
        len(data.classes),
        params.evaluate.knn_k,
        params.evaluate.knn_temperature,
    )
    return shares.argmax(1), truth
