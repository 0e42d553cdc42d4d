"""Evaluations of the same images next to each other, with the differences to the first one. Imports no torch."""

import csv
import io
from collections.abc import Mapping
from typing import Any

from franca.benchmarks import BY_NAME, COLUMNS, OURS
from franca.errors import FrancaError
from franca.evaluation.comparison import Evidence, compare
from franca.evaluation.intervals import Resampling
from franca.evaluation.report import cell

SEED = 0
"""Seed of the resamples, so that a comparison gives the same intervals every time."""
FIELDS = ("benchmark", "split", "metric", "model", "value", "low", "high", "n")
DIFFERENCE_FIELDS = ("difference", "difference_low", "difference_high", "paired")
_MISSING = "missing"


def check_comparable(named: Mapping[str, Evidence]) -> None:
    """Check that all evaluations are of the same images and by the same rules.

    Args:
        named: Two or more evaluations by name.

    Raises:
        FrancaError: They are not; the message says what differs.
    """
    (first, reference), *others = named.items()
    for name, evidence in others:
        if differing := _differing(evidence.results, reference.results):
            raise FrancaError(
                f"{name}: cannot be compared with {first}: {'; '.join(differing)}; measure both again on the same data"
                " with `franca evaluate --model SOURCE --output FOLDER`"
            )


def _differing(results: Mapping[str, Any], reference: Mapping[str, Any]) -> list[str]:
    found = []
    if results["data_digest"] != reference["data_digest"]:
        found.append(f"data digest {results['data_digest'][:12]} instead of {reference['data_digest'][:12]}")
    ours, theirs = results["suite"], reference["suite"]
    for key in sorted(ours.keys() | theirs.keys()):
        if ours.get(key, _MISSING) != theirs.get(key, _MISSING):
            found.append(f"suite {key} {ours.get(key, _MISSING)} instead of {theirs.get(key, _MISSING)}")
    return found


def side_by_side(named: Mapping[str, Evidence]) -> dict[str, Any]:
    """Return all scores of the evaluated models, and the differences of each to the first.

    Args:
        named: Two or more comparable evaluations by name.

    Returns:
        `models`: names and digests; `scores` and `differences`: rows as in `results.json`, in which `model` is a name.
    """
    check_comparable(named)
    (first, reference), *others = named.items()
    suite = reference.results["suite"]
    resampling = Resampling(SEED, suite["bootstrap_samples"], suite["confidence"])
    scores = [
        dict(row) | {"model": name}
        for name, evidence in named.items()
        for row in evidence.results["rows"]
        if row["model"] == OURS
    ]
    differences = []
    for name, evidence in others:
        for row in (row for row in evidence.results["rows"] if row["model"] == OURS):
            key = (row["benchmark"], row["split"], row["metric"])
            if found := compare(evidence, reference, OURS, *key, resampling):
                about = dict(zip(("benchmark", "split", "metric"), key, strict=True))
                differences.append({"model": name, "against": first} | about | found._asdict())
    return {
        "data_digest": reference.results["data_digest"],
        "suite": suite,
        "models": [
            {"name": name, "model_digest": evidence.results["model_digest"]} for name, evidence in named.items()
        ],
        "scores": scores,
        "differences": differences,
    }


def text(content: Mapping[str, Any]) -> str:
    """Return a table of the main metrics: a column per model, and below its score the difference to the first."""
    names = [model["name"] for model in content["models"]]
    width = max(31, *(len(name) + 2 for name in names))
    lines = [f"{'':38}" + "".join(f"{name:>{width}}" for name in names)]
    for benchmark, split, metric in main_metrics(content):
        row = [_find(content["scores"], name, benchmark, split, metric) for name in names]
        gaps = [_find(content["differences"], name, benchmark, split, metric) for name in names]
        title = f"{BY_NAME[benchmark].title} on {split}"
        title += "" if BY_NAME[benchmark].higher_is_better else " (less is better)"
        lines.append(f"{title:38}" + "".join(f"{cell(found):>{width}}" for found in row))
        if any(gaps):
            cells = [cell(found, "+") + ("" if found["paired"] else " unpaired") if found else "" for found in gaps]
            lines.append(f"{f'  minus {names[0]}'[:37]:38}" + "".join(f"{found:>{width}}" for found in cells))
    confidence = f"{100 * content['suite']['confidence']:g} %"
    return "\n".join([*lines, "", f"Brackets are {confidence} intervals; a difference is real if its own excludes 0."])


def main_metrics(content: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return benchmark, split and metric of the main scores that any model has, val before test."""
    known = {(row["benchmark"], row["split"], row["metric"]) for row in content["scores"]}
    keys = [(benchmark, split, metric) for benchmark, metric, _ in COLUMNS for split in ("val", "test")]
    return [key for key in keys if key in known]


def to_csv(content: Mapping[str, Any]) -> str:
    """Return a line per score, with its difference to the first model."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*FIELDS, *DIFFERENCE_FIELDS])
    for row in content["scores"]:
        key = (row["model"], row["benchmark"], row["split"], row["metric"])
        gap = _find(content["differences"], *key) or {}
        writer.writerow(
            [row[name] for name in FIELDS] + [gap.get(name, "") for name in ("value", "low", "high", "paired")]
        )
    return buffer.getvalue()


def _find(rows: list[dict[str, Any]], model: str, benchmark: str, split: str, metric: str) -> dict[str, Any] | None:
    wanted = (model, benchmark, split, metric)
    return next((row for row in rows if (row["model"], row["benchmark"], row["split"], row["metric"]) == wanted), None)
