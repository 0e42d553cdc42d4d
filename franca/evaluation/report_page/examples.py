"""Images of a report: nearest neighbors, the most confident errors, and the confusion matrix behind them."""

import base64
import io
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from franca.data.store.files.names import printable
from franca.data.store.prepared import ImageSet, SplitName, Store
from franca.data.store.transform import resize_and_crop
from franca.evaluation.features import FeatureSet, evenly_spaced
from franca.evaluation.methods.knn_votes import knn_classes
from franca.evaluation.methods.neighbors import nearest
from franca.evaluation.result import Skipped
from franca.params import Params

NEIGHBORS = 5
ERRORS = 8
SIDE = 112
"""Side of a thumbnail in pixels, at most; smaller images are not enlarged."""


@dataclass(frozen=True)
class Thumbnail:
    """A small image.

    Attributes:
        uri: The image as a data URI.
        label: Name of its class; None if it has none.
        right: Whether its class is that of the query; None if one of them has none.
        note: Further text, such as a similarity.
    """

    uri: str
    label: str | None
    right: bool | None = None
    note: str = ""


@dataclass(frozen=True)
class Query:
    """An image, and the training images that are most similar to it, the nearest first.

    Attributes:
        image: The image; `right` says whether k-NN classifies it correctly.
        predicted: Name of the class that k-NN predicts; None without labels.
        neighbors: The training images.
    """

    image: Thumbnail
    predicted: str | None
    neighbors: tuple[Thumbnail, ...]


@dataclass(frozen=True)
class Examples:
    """Examples of one split.

    Attributes:
        split: The split, val if it has images: test is not for looking for errors.
        queries: Evenly spaced images.
        errors: The wrong predictions of k-NN with the largest share of votes, largest first.
        classes: Names of the classes.
        counts: (C, C) numbers of images by true and predicted class; empty without labels.
        n: Number of labeled images of the split.
    """

    split: SplitName
    queries: tuple[Query, ...]
    errors: tuple[Query, ...]
    classes: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]
    n: int


@dataclass(frozen=True)
class _Predicted:
    """Class and share of votes by row of the split; only rows with a label are in `classes`."""

    classes: dict[int, int]
    shares: dict[int, float]


def find_examples(features: FeatureSet, store: Store, params: Params) -> Examples | None:
    """Return the examples of the evaluated model; None if there are no images apart from the training images.

    Args:
        features: Features by the evaluated model.
        store: The images.
        params: All parameters.
    """
    splits = features.scored_splits()
    if not splits or not len(features.splits["train"].labels):
        return None
    predicted, split = None, splits[0]
    for candidate in splits:
        try:
            predicted = _predict(features, candidate, params)
        except Skipped:
            continue
        split = candidate
        break
    labels = features.splits[split].labels.tolist()
    drawer = _Drawer(features, store, split)
    rows = evenly_spaced(len(labels), params.evaluate.sample_images).tolist()
    if predicted is None:
        return Examples(split, drawer.queries(rows, None), (), (), (), 0)
    wrong = [row for row, label in predicted.classes.items() if label != labels[row]]
    wrong = sorted(wrong, key=lambda row: (-predicted.shares[row], row))[:ERRORS]
    counts = np.zeros((len(features.classes), len(features.classes)), dtype=np.int64)
    for row, label in predicted.classes.items():
        counts[labels[row], label] += 1
    return Examples(
        split,
        drawer.queries(rows, predicted),
        drawer.queries(wrong, predicted),
        tuple(map(printable, features.classes)),
        tuple(map(tuple, counts.tolist())),
        len(predicted.classes),
    )


def _predict(features: FeatureSet, split: SplitName, params: Params) -> _Predicted:
    """Classify the labeled images of a split as the benchmark `knn` does; raises Skipped without labels."""
    train, train_labels = features.labeled("train")
    queries = features.labeled(split)[0]
    k, temperature = params.evaluate.knn_k, params.evaluate.knn_temperature
    classes, shares = knn_classes(train, train_labels, queries, len(features.classes), [k], temperature)[k]
    rows = (features.splits[split].labels >= 0).nonzero()[:, 0].tolist()
    return _Predicted(dict(zip(rows, classes.tolist(), strict=True)), dict(zip(rows, shares.tolist(), strict=True)))


class _Drawer:
    """Makes queries of the images of a split."""

    def __init__(self, features: FeatureSet, store: Store, split: SplitName) -> None:
        self._features = features
        self._images: dict[SplitName, ImageSet] = {name: store.images(name) for name in ("train", split)}
        self._split = split

    def queries(self, rows: list[int], predicted: _Predicted | None) -> tuple[Query, ...]:
        """Return the images of these rows with their nearest neighbors."""
        if not rows:
            return ()
        similarities, neighbors = self._nearest(self._features.splits[self._split].pooled[rows])
        found = []
        for row, values, others in zip(rows, similarities.tolist(), neighbors.tolist(), strict=True):
            truth, guess = self._label(self._split, row), predicted.classes.get(row) if predicted else None
            image = self._thumbnail(self._split, row, None if guess is None else guess == truth)
            if predicted is not None and guess is not None:
                image = Thumbnail(image.uri, image.label, image.right, f"{100 * predicted.shares[row]:.0f} % of votes")
            near = []
            for value, other in zip(values, others, strict=True):
                label = self._label("train", other)
                right = label == truth if min(label, truth) >= 0 else None
                near.append(self._thumbnail("train", other, right, f"{value:.2f}"))
            name = None if guess is None else printable(self._features.classes[guess])
            found.append(Query(image, name, tuple(near)))
        return tuple(found)

    @torch.inference_mode()
    def _nearest(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        train = self._features.splits["train"]
        return nearest(train.pooled, queries, min(NEIGHBORS, len(train.labels)), train.labels.device)

    def _label(self, split: SplitName, row: int) -> int:
        return int(self._features.splits[split].labels[row])

    def _thumbnail(self, split: SplitName, row: int, right: bool | None, note: str = "") -> Thumbnail:
        label = self._label(split, row)
        name = printable(self._features.classes[label]) if label >= 0 else None
        image = self._images[split][row]
        return Thumbnail(jpeg_uri(resize_and_crop(image, min(SIDE, *image.size))), name, right, note)


def jpeg_uri(image: Image.Image, quality: int = 85) -> str:
    """Return an RGB image as a data URI; the same pixels give the same text."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
