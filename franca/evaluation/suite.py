"""All benchmarks on a model and its baselines, as a function of weights, data and parameters."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from tqdm import tqdm

from franca.benchmarks import MODULES, OURS, Benchmark
from franca.data.store.prepared import SPLITS, Store
from franca.evaluation.comparison import Evidence, differences
from franca.evaluation.extractors import baseline_extractors, model_extractor
from franca.evaluation.features import FeatureExtractor, FeatureSet, extract_all
from franca.evaluation.intervals import Resampling
from franca.evaluation.outcomes import Key, Outcome
from franca.evaluation.pictures.inputs import PictureInputs
from franca.evaluation.result import Result, Skipped
from franca.models import load_model
from franca.params import Params
from franca.runtime import choose_device, configure_torch


def evaluate_model(model_folder: Path, store: Store, params: Params, *, baselines: bool = False) -> Evidence:
    """Measure another Franca model, under the name `franca`, on the same benchmarks; write no files.

    `baselines` says whether its baselines are measured as well.
    """
    configure_torch(params.runtime)
    device, model = choose_device(params.runtime), load_model(model_folder)
    extractors = [model_extractor(OURS, model, device)]
    if baselines:
        extractors += baseline_extractors(model, store.channels, params.base.seed, device)
    return summarize(measure(extractors, store, params), model.digest, store, params)


@dataclass
class Measured:
    """The results of all benchmarks.

    Attributes:
        features: Features by model.
        results: Results by model and benchmark, without those that were skipped.
        skipped: By model, why a benchmark (`knn`) or a split of a benchmark (`knn/test`) was not measured.
    """

    features: dict[str, FeatureSet]
    results: dict[str, dict[str, Result]] = field(default_factory=dict)
    skipped: dict[str, dict[str, str]] = field(default_factory=dict)


def measure(extractors: list[FeatureExtractor], store: Store, params: Params) -> Measured:
    """Run the benchmarks of the suite on every extractor, the evaluated model first; skip what data do not allow."""
    measured = Measured(extract_all(extractors, store))
    for extractor in tqdm(extractors, desc="benchmarks", unit="model", disable=None):
        features = measured.features[extractor.name]
        results = measured.results.setdefault(extractor.name, {})
        skipped = measured.skipped.setdefault(extractor.name, {})
        for benchmark in (benchmark for benchmark in MODULES if benchmark.belongs_to(params.evaluate.suite)):
            if "network" in benchmark.needs and not extractor.learned:
                continue
            if "videos" in benchmark.needs and not features.videos:
                continue
            try:
                result: Result = module_of(benchmark).run(extractor, features, params)
            except Skipped as reason:
                skipped[benchmark.name] = str(reason)
                continue
            results[benchmark.name] = result
            scored = {score.split for score in result.measurements if score.benchmark == benchmark.name}
            reasons = {split: f"no {split} images for it" for split in SPLITS[1:] if split not in scored}
            skipped |= {f"{benchmark.name}/{split}": why for split, why in {**reasons, **result.skipped}.items()}
    return measured


def module_of(benchmark: Benchmark) -> ModuleType:
    """Return the module of a benchmark, with `run` and, if it has pictures, `draw`."""
    return import_module(f"franca.evaluation.benchmarks.{benchmark.name}")


def summarize(measured: Measured, model_digest: str, store: Store, params: Params) -> Evidence:
    """Return the content of `results.json` and of `outcomes.npz`."""
    outcomes: dict[Key, Outcome] = {}
    rows: list[dict[str, Any]] = []
    for model, results in measured.results.items():
        for score in (score for result in results.values() for score in result.measurements):
            rows.append({"model": model} | score.row)
            outcomes[model, score.benchmark, score.split, score.metric] = score.outcome
    content: dict[str, Any] = {
        "data_digest": store.digest,
        "model_digest": model_digest,
        "suite": params.evaluate.comparable,
        "skipped": _merge_skipped(measured.skipped),
        "rows": rows,
    }
    content["differences"] = differences(Evidence(content, outcomes), SPLITS[1:], Resampling.of(params))
    return Evidence(content, outcomes)


def _merge_skipped(skipped: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Return `skipped` of `results.json`: the reasons of our model, then those that other models do not share with it.

    Keys of another model start with `baseline/<model>/`, like its scores in MLflow. Gates read the keys of our model
    only, so a benchmark that is skipped for a comparator does not make a gate fail.
    """
    merged = dict(skipped.get(OURS, {}))
    for model, reasons in skipped.items():
        for what, reason in reasons.items():
            if merged.get(what) != reason:
                merged[f"baseline/{model}/{what}"] = reason
    return merged


def draw_pictures(folder: Path, measured: Measured, results: dict[str, Any], params: Params) -> None:
    """Replace the content of `folder` by the pictures of all benchmarks; the same results give the same bytes.

    Args:
        folder: Where the files go.
        measured: Results of our model and the others.
        results: Content of `results.json`.
        params: All parameters.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for benchmark in (benchmark for benchmark in MODULES if benchmark.pictures):
        found = {model: by_name.get(benchmark.name) for model, by_name in measured.results.items()}
        drawables = {model: result.drawable for model, result in found.items() if result and result.drawable}
        module_of(benchmark).draw(folder, PictureInputs(results, measured.features[OURS], drawables, params))
