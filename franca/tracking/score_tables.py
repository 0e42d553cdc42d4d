"""Scores of a model beside those of its baselines, with intervals, as CSV and as Markdown."""

import csv
import io
from typing import Any

from franca.benchmarks import BY_NAME, COLUMNS, OURS
from franca.evaluation.report import cell, titles

MAIN = {(benchmark, metric): position for position, (benchmark, metric, _) in enumerate(COLUMNS)}
SPLITS = ("test", "val")
_GAP = "&ensp;"
"""Space between columns, since MLflow's pages show tables without any."""

Key = tuple[str, str, str]
"""Benchmark, split and metric."""


def score_csv(all_results: dict[str, dict[str, Any]]) -> str:
    """Return all scores: a row for each data set, benchmark, split and metric, a column for each model.

    Args:
        all_results: Content of `results.json` by data set; the name of the training source is empty.
    """
    names = {model: title for results in all_results.values() for model, title in titles(results).items()}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["data set", "benchmark", "split", "metric", *names.values()])
    for dataset, results in all_results.items():
        for key, rows in _by_metric(results):
            writer.writerow([dataset, *key, *(cell(rows.get(model)) for model in names)])
    return text.getvalue()


def score_markdown(all_results: dict[str, dict[str, Any]], splits: tuple[str, ...] = SPLITS) -> str:
    """Return the main metrics as Markdown: a table for each data set, a column for each model."""
    tables = []
    for dataset, results in all_results.items():
        names = titles(results)
        lines = [f"On the data set `{dataset}`:", ""] if dataset else []
        lines += [f"| Score | {' | '.join(_GAP + title for title in names.values())} |"]
        lines += ["| --- " * (len(names) + 1) + "|"]
        for (benchmark, split, metric), rows in _by_metric(results):
            if (benchmark, metric) in MAIN and split in splits:
                about = BY_NAME[benchmark]
                title = f"{about.title}, {split}{'' if about.higher_is_better else ' (lower is better)'}"
                lines.append(f"| {title} | {' | '.join(_GAP + cell(rows.get(model)) for model in names)} |")
        tables.append("\n".join(lines))
    return "\n\n".join(tables)


def headline(results: dict[str, Any], split: str = "test", scores: int = 2) -> str:
    """Return the first main scores with those of the baselines in one line; empty if none was measured on `split`."""
    names = titles(results)
    parts = []
    for (benchmark, part, metric), rows in _by_metric(results):
        if (benchmark, metric) in MAIN and part == split and OURS in rows:
            others = [f"{names[model]} {row['value']:.1f}" for model, row in rows.items() if model != OURS]
            beside = f" ({', '.join(others)})" if others else ""
            parts.append(f"{BY_NAME[benchmark].title} {cell(rows[OURS])}{beside}")
    return f"On {split}: {'; '.join(parts[:scores])}." if parts else ""


def _by_metric(results: dict[str, Any]) -> list[tuple[Key, dict[str, dict[str, Any]]]]:
    """Return the rows of each benchmark, split and metric by model; main metrics first."""
    found: dict[Key, dict[str, dict[str, Any]]] = {}
    for row in results["rows"]:
        found.setdefault((row["benchmark"], row["split"], row["metric"]), {})[row["model"]] = row
    return sorted(found.items(), key=lambda item: _rank(item[0]))


def _rank(key: Key) -> tuple[int, int]:
    benchmark, split, metric = key
    return MAIN.get((benchmark, metric), len(MAIN)), SPLITS.index(split) if split in SPLITS else 0
