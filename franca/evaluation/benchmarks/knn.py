"""Weighted k-NN of pooled features against the training images: on all dimensions, and on parts of them.

The parts are the first D dimensions for each Matryoshka level D of the model (`knn_levels`). Their controls are D
random dimensions (`knn_random_dims`) and the first D principal components of train (`knn_components`): nested training
has gained something only if a level beats them.
"""

from pathlib import Path

from torch import Tensor

from franca.benchmarks import OURS
from franca.data.store.prepared import SplitName
from franca.drawing import save_figure
from franca.evaluation import report
from franca.evaluation.dimensions import controls, sample
from franca.evaluation.features import FeatureExtractor, FeatureSet
from franca.evaluation.intervals import Measurement, Resampling, measure
from franca.evaluation.methods.knn_votes import knn_classes
from franca.evaluation.outcomes import Outcome
from franca.evaluation.pictures import knn as pictures
from franca.evaluation.pictures.inputs import PictureInputs
from franca.evaluation.result import Result
from franca.feature_files import map_blocks
from franca.params import Params


def run(extractor: FeatureExtractor, features: FeatureSet, params: Params) -> Result:
    """Measure top1 of `knn`, and top1_D of `knn_levels` and of its controls."""
    whole = features.labeled("train")[0].shape[1]
    splits, skipped = features.labeled_splits()
    found = []
    for split in splits:
        for width in extractor.levels or (whole,):
            predicted, labels = predict(features, split, params, width)
            if extractor.levels:
                found.append(accuracy("knn_levels", split, f"top1_{width}", predicted == labels, features, params))
            if width == whole:
                found.append(accuracy("knn", split, "top1", predicted == labels, features, params))
    return Result(found + _controls(features, splits, params), skipped)


def draw(folder: Path, inputs: PictureInputs) -> None:
    """Write k-NN by level, and the confusion matrix on val, as tables and pictures."""
    results, features = inputs.results, inputs.features
    if not report.by_level(results, OURS, "val"):
        return
    pictures.write_level_table(folder / "knn_by_level.csv", results)
    save_figure(pictures.draw_levels(results), folder / "knn_by_level.png")
    predicted, truth = (classes.tolist() for classes in predict(features, "val", inputs.params))
    pictures.write_confusion_table(folder / "confusion.csv", truth, predicted, features.classes)
    save_figure(pictures.draw_confusion(truth, predicted, features.classes), folder / "confusion.png")


def predict(features: FeatureSet, split: SplitName, params: Params, width: int | None = None) -> tuple[Tensor, Tensor]:
    """Classify the labeled images of a split by the first `width` of their features, by default all.

    Returns:
        predicted and true classes, (n,) int64 each.
    """
    queries, truth = features.labeled(split)
    return _classify(features.labeled("train")[0][:, :width], queries[:, :width], features, params), truth


def accuracy(
    benchmark: str, split: SplitName, metric: str, correct: Tensor, features: FeatureSet, params: Params
) -> Measurement:
    """Return the share of a split's labeled images that are right, from `correct` (n,) bool."""
    outcome = Outcome("hits", correct.cpu().numpy(), features.images(split), len(correct))
    return measure(benchmark, split, metric, outcome, Resampling.of(params))


def _controls(features: FeatureSet, splits: list[SplitName], params: Params) -> list[Measurement]:
    """Measure top1_D of both controls at each of the `control_widths` D of the features.

    The widths are the evaluated model's levels for every model, the baselines included.
    """
    train, train_labels = features.labeled("train")
    device = train_labels.device
    found = []
    parts = controls(sample(train).to(device), features.control_widths, params.base.seed)
    for split in splits:
        queries, labels = features.labeled(split)
        for part in parts:
            taken, asked = (map_blocks(part.take, x, device) for x in (train, queries))
            predicted = _classify(taken, asked, features, params)
            name, metric = f"knn_{part.kind}", f"top1_{part.width}"
            found.append(accuracy(name, split, metric, predicted == labels, features, params))
    return found


def _classify(train: Tensor, queries: Tensor, features: FeatureSet, params: Params) -> Tensor:
    labels = features.labeled("train")[1]
    k, temperature = params.evaluate.knn_k, params.evaluate.knn_temperature
    return knn_classes(train, labels, queries, len(features.classes), [k], temperature)[k].classes
