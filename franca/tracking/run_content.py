"""Read the content of a pipeline's MLflow run from the project's files."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from franca.benchmarks import OURS
from franca.data.store.prepared import SPLITS, SplitName
from franca.errors import FrancaError
from franca.files import read_json, sha256_file
from franca.params import ChannelStatistics, Params, resolve
from franca.params.render import to_yaml
from franca.paths import MODEL, PREPARED, RESULTS, runs_root
from franca.tracking.lineage import stage_seconds

STAGES = ("prepare", "pretrain", "disentangle", "evaluate")
DIGEST_CHARACTERS = 36
"""MLflow's limit for the digest of a data set."""
MAX_VALUE = 6000
"""MLflow's limit for the value of a parameter, in characters."""


@dataclass(frozen=True)
class DatasetSplit:
    """A split of the prepared store in the form of an MLflow data set; `profile` has its number of images."""

    name: str
    digest: str
    split: SplitName
    source: str
    profile: dict[str, Any]


@dataclass(frozen=True)
class RunContent:
    """The content of an MLflow run.

    Attributes:
        fingerprint: ID of the pretraining.
        pipeline: Digest of everything that distinguishes this run from others: parameters, weights and results.
        digest: SHA-256 of the weights.
        results: `results.json` of the evaluate stage.
        on_datasets: The same of each further data set, by name.
        params: Parameters by dotted path.
        metrics: Metrics of the stages by MLflow name.
        scores: Metrics of the model by MLflow name.
        series: Metrics of the model whose names end in a number, such as `top1_12` for 12 dimensions: MLflow name
            without the number -> number -> value. They are one chart each instead of a chart a number.
        manifest: `manifest.json` of the prepared store.
    """

    fingerprint: str
    pipeline: str
    digest: str
    results: dict[str, Any]
    on_datasets: dict[str, dict[str, Any]]
    params: dict[str, str]
    params_file: str
    metrics: dict[str, float]
    scores: dict[str, float]
    series: dict[str, dict[int, float]]
    manifest: dict[str, Any]

    @property
    def run_folder(self) -> Path:
        """Folder of the pretraining's checkpoints and logs, which may be on another machine."""
        return runs_root() / f"pretrain-{self.fingerprint}"

    @property
    def all_results(self) -> dict[str, dict[str, Any]]:
        """Results by data set; the name of the training source is empty."""
        return {"": self.results, **self.on_datasets}

    def dataset_of(self, key: str) -> DatasetSplit:
        """Return the split that a score was measured on, from the score's MLflow name."""
        parts = key.split("/")
        split: SplitName = next((split for split in SPLITS if split in parts), "val")
        if parts[0] in self.on_datasets and len(parts) == 4:
            digest = self.on_datasets[parts[0]]["data_digest"][:DIGEST_CHARACTERS]
            return DatasetSplit(f"{parts[0]}-{split}", digest, split, f"datasets/{parts[0]}", {})
        return self.datasets()[split]

    def datasets(self) -> dict[SplitName, DatasetSplit]:
        """Return the splits of the prepared store; all have the digest of the store."""
        parts = [part for part in (self.manifest, self.manifest.get("dense")) if part]
        name = "+".join(Path(part["source"]["path"]).name for part in parts) or "prepared"
        source = ", ".join(part["source"]["path"] for part in parts)
        digest = self.results["data_digest"][:DIGEST_CHARACTERS]
        found = {}
        for split in SPLITS:
            profile = {"images": [part["counts"][split]["images"] for part in parts]}
            found[split] = DatasetSplit(f"{name}-{split}", digest, split, source, profile)
        return found


def read_run_content(params: Params) -> RunContent:
    """Read the content of the run from the outputs of all stages.

    Raises:
        FrancaError: A file is missing or of another model; the message names the stage to run.
    """
    weights, results_path = MODEL / "model.safetensors", RESULTS / "evaluate/results.json"
    for path, stage in ((weights, "disentangle"), (results_path, "evaluate")):
        if not path.is_file():
            raise FrancaError(f"{path}: no such file; run `dvc repro {stage}` first")
    digest, results = sha256_file(weights), read_json(results_path)
    if results["model_digest"] != digest:
        raise FrancaError(
            f"{results_path}: was computed from other weights than {MODEL}; run `dvc repro evaluate` first"
        )

    on_datasets = {name: _read_dataset_results(name, digest) for name in params.datasets}
    stages = {stage: _read_metrics(stage) for stage in STAGES}
    fingerprint = stages["pretrain"].get("fingerprint")
    if not isinstance(fingerprint, str):
        raise FrancaError(
            f"{RESULTS}/pretrain/metrics.json: the fingerprint is missing; run `dvc repro pretrain` first"
        )
    manifest = PREPARED / "manifest.json"
    resolved = resolve(params, lambda: _model_channels(MODEL))
    values = resolved.model_dump(mode="json", by_alias=True, exclude={"register_"})
    content = {
        "params": {section: values[section] for section in values if section != "runtime"},
        "fingerprint": fingerprint,
        "digest": digest,
        "results": sha256_file(results_path),
    }
    if on_datasets:
        content["on_datasets"] = on_datasets
    metrics = {f"seconds/{name}": value for name, value in stage_seconds(runs_root() / "stages.jsonl").items()}
    for stage in ("pretrain", "disentangle"):
        metrics |= {f"{stage}/{name}": value for name, value in numbers(stages[stage]).items()}
    scores, series = _split_scores({"": results, **on_datasets})
    return RunContent(
        fingerprint=fingerprint,
        pipeline=hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16],
        digest=digest,
        results=results,
        on_datasets=on_datasets,
        params=param_texts(values),
        params_file=to_yaml(params, "The parameters of this run, as validated."),
        metrics=metrics,
        scores=scores,
        series=series,
        manifest=read_json(manifest) if manifest.is_file() else {},
    )


def _split_scores(
    all_results: dict[str, dict[str, Any]],
) -> tuple[dict[str, float], dict[str, dict[int, float]]]:
    """Return the scores of the model, and apart from them those whose names end in a number, as series."""
    scores: dict[str, float] = {}
    series: dict[str, dict[int, float]] = {}
    for dataset, results in all_results.items():
        for row in results["rows"]:
            if row["model"] != OURS:
                continue
            name, _, number = row["metric"].rpartition("_")
            key = f"{dataset}/{row['benchmark']}/{row['split']}".removeprefix("/")
            if name and number.isdecimal():
                series.setdefault(f"{key}/{name}", {})[int(number)] = row["value"]
            else:
                scores[f"{key}/{row['metric']}"] = row["value"]
    return scores, series


def flatten(tree: dict[str, Any], separator: str) -> dict[str, Any]:
    """Return the leaves of nested dicts by their paths; lists are leaves."""
    leaves: dict[str, Any] = {}
    for name, value in tree.items():
        inner = flatten(value, separator) if isinstance(value, dict) else None
        leaves |= {f"{name}{separator}{rest}": leaf for rest, leaf in inner.items()} if inner else {name: value}
    return leaves


def numbers(tree: dict[str, Any]) -> dict[str, float]:
    """Return the numeric leaves of nested dicts by their paths, with slashes."""
    leaves = flatten(tree, "/").items()
    return {name: float(leaf) for name, leaf in leaves if isinstance(leaf, int | float) and not isinstance(leaf, bool)}


def _model_channels(folder: Path) -> ChannelStatistics:
    """The channel statistics that a model was trained with: the numbers behind `auto`."""
    config = read_json(folder / "config.json")
    return ChannelStatistics(tuple(config["mean"]), tuple(config["std"]))


def _read_dataset_results(name: str, digest: str) -> dict[str, Any]:
    """Read the results on a further data set; raises FrancaError if there are none, or of other weights."""
    path = RESULTS / "datasets" / name / "results.json"
    results: dict[str, Any] = read_json(path) if path.is_file() else {}
    if results.get("model_digest") != digest:
        reason = "was computed from other weights" if results else "no such file"
        raise FrancaError(f"{path}: {reason}; run `dvc repro evaluate_dataset@{name}` first")
    return results


def _read_metrics(stage: str) -> dict[str, Any]:
    path = RESULTS / stage / "metrics.json"
    return read_json(path) if path.is_file() else {}


def param_texts(values: dict[str, Any]) -> dict[str, str]:
    """Return parameters by their dotted paths, as MLflow stores them."""
    return {name: _text(value) for name, value in flatten(values, ".").items()}


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) < MAX_VALUE else text[: MAX_VALUE - 10] + "..."
