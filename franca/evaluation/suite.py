"""Every benchmark on a model and its baselines: a function of weights, data and parameters."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from franca.data.store.prepared import SPLITS, Store
from franca.evaluation.baselines import model_backbone
from franca.evaluation.benchmarks import knn, linear, position, rank, segmentation, views
from franca.evaluation.benchmarks.segmentation import Segmenter
from franca.evaluation.comparison import OURS, Evidence, differences
from franca.evaluation.features import Backbone, Dataset, LeftOut, Skipped, extract_all
from franca.evaluation.intervals import Measurement, Resampling
from franca.evaluation.outcomes import Key, Outcome
from franca.models import load_model
from franca.params import Params
from franca.runtime import choose_device, configure_torch


def evaluate_model(model_folder: Path, store: Store, params: Params) -> Evidence:
    """Measure another Franca model, under the name `franca`, by the same benchmarks; writes nothing."""
    configure_torch(params.runtime)
    model = load_model(model_folder)
    backbone = model_backbone(OURS, model, choose_device(params.runtime))
    return summarize(measure([backbone], store, params), model.digest, store, params)


@dataclass
class Measured:
    """What a run over some backbones found, by their names; `skipped` says what could not run and why."""

    datasets: dict[str, Dataset]
    scores: dict[str, list[Measurement]] = field(default_factory=dict)
    segmenters: dict[str, Segmenter] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)


def measure(backbones: list[Backbone], store: Store, params: Params) -> Measured:
    """Run every benchmark that the data allow on every backbone."""
    measured = Measured(extract_all(backbones, store))
    widths = backbones[0].levels
    for backbone in tqdm(backbones, desc="benchmarks", unit="model", disable=None):
        data = measured.datasets[backbone.name]

        def segment(backbone: Backbone = backbone) -> list[Measurement | LeftOut]:
            measured.segmenters[backbone.name], found = segmentation.run(backbone, store, params)
            return found

        benchmarks: dict[str, Callable[[], Iterable[Measurement | LeftOut]]] = {
            "knn": partial(knn.run, backbone, data, params),
            "controls": partial(_controls, backbone, data, widths, params),
            "linear": partial(linear.run, backbone, data, params),
            "segmentation": segment,
            "position": partial(position.run, backbone, data, params),
            "views": partial(views.run, data, params),
        }
        if backbone.learned:
            benchmarks["rank"] = partial(rank.run, data, params)
        scores = measured.scores.setdefault(backbone.name, [])
        for name, benchmark in benchmarks.items():
            found, skipped = _attempt(name, benchmark)
            scores += found
            measured.skipped |= skipped
    return measured


def _controls(backbone: Backbone, data: Dataset, widths: tuple[int, ...], params: Params) -> Iterator[Measurement]:
    yield from knn.controls(data, widths, params)
    yield from linear.controls(backbone, data, params)


def _attempt(
    name: str, benchmark: Callable[[], Iterable[Measurement | LeftOut]]
) -> tuple[list[Measurement], dict[str, str]]:
    """Run a benchmark; return its scores, and why it has none for all splits or for one."""
    try:
        found = list(benchmark())
    except Skipped as reason:
        return [], {} if name == "controls" else {name: str(reason)}
    scores = [score for score in found if isinstance(score, Measurement)]
    if name == "controls":  # left out for the same reasons as k-NN
        return scores, {}
    skipped = {f"{name}/{part.split}": part.reason for part in found if isinstance(part, LeftOut)}
    for split in SPLITS[1:]:
        if not any((score.benchmark, score.split) == (name, split) for score in scores):
            skipped.setdefault(f"{name}/{split}", f"no {split} images for it")
    return scores, skipped


def summarize(measured: Measured, model_digest: str, store: Store, params: Params) -> Evidence:
    """Return the content of `results.json` and of `outcomes.npz`."""
    outcomes: dict[Key, Outcome] = {}
    rows: list[dict[str, Any]] = []
    for model, scores in measured.scores.items():
        for score in scores:
            rows.append({"model": model} | score.row)
            outcomes[model, score.benchmark, score.split, score.metric] = score.outcome
    results: dict[str, Any] = {
        "data_digest": store.digest,
        "model_digest": model_digest,
        "suite": params.evaluate.suite,
        "skipped": measured.skipped,
        "rows": rows,
    }
    results["differences"] = differences(Evidence(results, outcomes), SPLITS[1:], Resampling.of(params))
    return Evidence(results, outcomes)
