"""k-NN as tables and pictures: accuracy by number of dimensions, and the confusion matrix."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from franca.benchmarks import BY_NAME, LEVELS, OURS, RANDOM_INIT
from franca.data.store.files.names import printable
from franca.evaluation import report
from franca.evaluation.pictures.style import style
from franca.files import write_bytes

MAX_NAMED_CLASSES = 40
"""Classes of a confusion matrix that have their names on the axes and numbers in the cells."""


def write_level_table(path: Path, results: dict[str, Any]) -> None:
    """Write a CSV file with a row per width.

    The levels of our model are in columns `val` and `test`, all others in `<model>_<part>_<split>`.
    """
    columns: dict[str, dict[int, dict[str, Any]]] = {}
    for model in report.titles(results):
        for benchmark in LEVELS:
            for split in ("val", "test"):
                own = model == OURS and benchmark == "knn_levels"
                name = split if own else f"{model}_{benchmark.removeprefix('knn_')}_{split}"
                found = report.by_level(results, model, split, benchmark)
                if found or own:
                    columns[name] = found
    lines = []
    for width in columns["val"]:
        cells = [str(found[width]["value"]) if width in found else "" for found in columns.values()]
        lines.append(",".join([str(width), *cells]))
    _write_lines(path, ",".join(["dim", *columns]), lines)


def write_confusion_table(path: Path, truth: list[int], predicted: list[int], classes: list[str]) -> None:
    """Write a CSV file with the actual and the predicted class of each image."""
    names = [(classes[actual], classes[seen]) for actual, seen in zip(truth, predicted, strict=True)]
    _write_lines(path, "actual,predicted", map(_csv_line, names))


def _csv_line(cells: Sequence[str]) -> str:
    """Return a line of CSV, with quotes around cells that contain a comma, a quote or a line break."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="").writerow(cells)
    return buffer.getvalue()


def _write_lines(path: Path, header: str, lines: Iterable[str]) -> None:
    write_bytes(path, "".join(f"{line}\n" for line in [header, *lines]).encode())


def draw_levels(results: dict[str, Any]) -> Figure:
    """Draw accuracy over the number of dimensions with intervals, the controls, and other models as horizontal lines.

    The split is test, or val if test was not measured.
    """
    split = "test" if report.by_level(results, OURS, "test") else "val"
    levels = report.by_level(results, OURS, split)
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    axes = figure.subplots()
    labels = []
    for row in results["rows"]:
        if (row["benchmark"], row["split"]) == ("knn", split) and row["model"] != OURS:
            name, color = style(row["model"])
            axes.axhspan(row["low"], row["high"], color=color, alpha=0.15, linewidth=0)
            axes.axhline(row["value"], color=color, linewidth=1.2)
            labels.append((row["value"], name, color))
    values = [row["value"] for row in levels.values()]
    errors = [
        [row["value"] - row["low"] for row in levels.values()],
        [row["high"] - row["value"] for row in levels.values()],
    ]
    for model, benchmark, dashes in (
        (OURS, "knn_components", "--"),
        (OURS, "knn_random_dims", ":"),
        (RANDOM_INIT, "knn_levels", "-"),
        (RANDOM_INIT, "knn_components", "--"),
    ):
        rows = report.by_level(results, model, split, benchmark)
        if rows:
            label = f"{style(model)[0]}, {LEVELS[benchmark]}"
            heights = [row["value"] for row in rows.values()]
            axes.plot(list(rows), heights, color=style(model)[1], linestyle=dashes, linewidth=1.2, label=label)
    name, color = style(OURS)
    axes.errorbar(
        list(levels), values, yerr=errors, color=color, marker="o", linewidth=2, capsize=3, label=f"{name}, first D"
    )
    labels.append((values[-1], name, color))
    axes.legend(fontsize=8, frameon=False)
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(levels), [str(width) for width in levels])
    axes.minorticks_off()
    axes.set_xlabel("first dimensions of the embedding that are kept")
    axes.set_ylabel(f"{BY_NAME['knn'].title} accuracy on {split}, {BY_NAME['knn'].unit}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e5e5e5", linewidth=0.8)
    axes.set_axisbelow(True)
    _label_lines(axes, labels)
    return figure


def _label_lines(axes: Any, labels: list[tuple[float, str, str]]) -> None:
    """Write names at the right edge at the heights of their lines, moved up if they would overlap."""
    low, high = axes.get_ylim()
    gap, floor = (high - low) / 18, low
    for value, name, color in sorted(labels):
        floor = max(value, floor)
        axes.annotate(
            f"{name} {value:.1f}", (1.02, floor), xycoords=("axes fraction", "data"), color=color, va="center"
        )
        floor += gap


def draw_confusion(truth: list[int], predicted: list[int], classes: list[str]) -> Figure:
    """Draw the percentage of each actual class that is predicted as each class."""
    counts = np.zeros((len(classes), len(classes)))
    np.add.at(counts, (truth, predicted), 1)
    shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = 2.2 + 0.48 * min(len(classes), MAX_NAMED_CLASSES)
    figure = Figure(figsize=(side + 0.6, side), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    if len(classes) <= MAX_NAMED_CLASSES:
        # Matplotlib would read two dollar signs as a formula.
        names = [printable(name).replace("$", r"\$") for name in classes]
        axes.set_xticks(range(len(classes)), names, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(classes)), names)
        for (row, column), share in np.ndenumerate(shares):
            if share >= 0.5:
                color = "white" if share > 55 else "#333333"
                axes.text(column, row, f"{share:.0f}", ha="center", va="center", fontsize=8, color=color)
    axes.set_xlabel("predicted")
    axes.set_ylabel("actual")
    axes.set_title("k-NN on val, % of the actual class", fontsize=11)
    axes.spines[:].set_visible(False)
    return figure
