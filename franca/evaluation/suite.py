"""The evaluate stage: every benchmark on our model and its baselines. A function of weights, data and parameters."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from franca.data.store import SPLITS, Store
from franca.evaluation import pictures, report
from franca.evaluation.baselines import color_histogram, model_backbone, raw_pixels
from franca.evaluation.benchmarks import knn, linear, position, segmentation
from franca.evaluation.benchmarks.segmentation import Segmenter
from franca.evaluation.features import Backbone, Dataset, Skipped, extract_all
from franca.evaluation.intervals import Score
from franca.files import write_json
from franca.models import load_model, random_twin
from franca.params import Params
from franca.paths import MODEL, PREPARED, RESULTS
from franca.runtime import choose_device, configure_torch

OUTPUT = RESULTS / "evaluate"


def run(params: Params) -> None:
    """The evaluate stage: `results.json`, `metrics.json` and pictures in `results/evaluate`."""
    configure_torch(params.runtime)
    device, store, model = choose_device(params.runtime), Store(PREPARED), load_model(MODEL)
    comparators = {folder.name: load_model(folder) for folder in map(Path, params.evaluate.comparators)}
    side, patch = model.image_size, model.patch_size
    channels = store.manifest["channels"]
    backbones = [
        model_backbone("franca", model, device),
        *(model_backbone(name, comparator, device) for name, comparator in comparators.items()),
        model_backbone("random_init", random_twin(model, params.base.seed), device),
        raw_pixels(channels["mean"], channels["std"], side, patch, device),
        color_histogram(side, patch, device),
    ]
    measured = measure(backbones, store, params)
    results = summarize(measured, model.digest, store, params)
    write_json(OUTPUT / "results.json", results)
    write_json(OUTPUT / "metrics.json", report.metrics(results))
    pictures.write(OUTPUT / "plots", results, measured.datasets["franca"], measured.segmenters, store, params)
    print(report.text(results))


def evaluate_model(model_folder: Path, store: Store, params: Params) -> dict[str, Any]:
    """Results of another Franca model, under the name `franca`, by the same benchmarks; writes nothing."""
    configure_torch(params.runtime)
    model = load_model(model_folder)
    backbone = model_backbone("franca", model, choose_device(params.runtime))
    return summarize(measure([backbone], store, params), model.digest, store, params)


@dataclass
class Measured:
    """What a run over some backbones found, by their names; `skipped` says what could not run and why."""

    datasets: dict[str, Dataset]
    scores: dict[str, list[Score]] = field(default_factory=dict)
    segmenters: dict[str, Segmenter] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)


def measure(backbones: list[Backbone], store: Store, params: Params) -> Measured:
    """Run every benchmark that the data allow on every backbone."""
    measured = Measured(extract_all(backbones, store))
    for backbone in tqdm(backbones, desc="benchmarks", unit="model", disable=None):
        data, scores = measured.datasets[backbone.name], measured.scores.setdefault(backbone.name, [])

        def segment(backbone: Backbone = backbone) -> list[Score]:
            measured.segmenters[backbone.name], found = segmentation.run(backbone, store, params)
            return found

        benchmarks: dict[str, Callable[[], Iterable[Score]]] = {
            "knn": partial(knn.run, backbone, data, params),
            "linear": partial(linear.run, backbone, data, params),
            "segmentation": segment,
            "position": partial(position.run, backbone, data, params),
        }
        for name, benchmark in benchmarks.items():
            try:
                scores += benchmark()
            except Skipped as reason:
                measured.skipped[name] = str(reason)
                continue
            for split in SPLITS[1:]:
                if not any((score.benchmark, score.split) == (name, split) for score in scores):
                    measured.skipped[f"{name}/{split}"] = f"no {split} images for it"
    return measured


def summarize(measured: Measured, model_digest: str, store: Store, params: Params) -> dict[str, Any]:
    """The content of `results.json`."""
    return {
        "data_digest": store.digest,
        "model_digest": model_digest,
        "suite": params.evaluate.suite,
        "skipped": measured.skipped,
        "rows": [{"model": name} | score._asdict() for name, scores in measured.scores.items() for score in scores],
    }
