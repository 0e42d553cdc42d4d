"""Pictures and tables of an evaluation, the same bytes for the same results."""

import csv
import io
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch
from numpy.typing import NDArray

from franca.data.store.files.names import printable
from franca.data.store.prepared import DenseSet, Store
from franca.drawing import PrincipalColors, save_figure
from franca.evaluation import report
from franca.evaluation.benchmarks import knn
from franca.evaluation.benchmarks.segmentation import Segmenter, patch_features
from franca.evaluation.features import Dataset, evenly_spaced
from franca.files import write_bytes
from franca.params import Params

STYLES = {
    "franca": ("Franca", "#1d4e89"),
    "random_init": ("random weights", "#7d8597"),
    "raw_pixels": ("raw pixels", "#b08968"),
    "color_histogram": ("color histogram", "#e07a3f"),
}
COMPARATOR_COLORS = ("#6a994e", "#bc4749", "#9a6fb0", "#2a9d8f", "#c98bb9", "#577590")
CLASS_COLORS = ("#d1495b", "#e9c46a", "#6c757d", "#5a9367", "#2e86ab", "#8e5572", "#f4a261", "#264653", "#b5c99a")
UNLABELED = "#ffffff"
TILES_A_ROW = 6


def style(model: str) -> tuple[str, str]:
    """Name and color of a model: a comparator's own name, and a color that depends on it alone."""
    color = COMPARATOR_COLORS[sum(model.encode()) % len(COMPARATOR_COLORS)]
    return STYLES.get(model, (model, color))


def write(
    folder: Path,
    results: dict[str, Any],
    data: Dataset,
    segmenters: dict[str, Segmenter],
    store: Store,
    params: Params,
) -> None:
    """Fill `folder` anew with what the results allow: k-NN by level, confusion on val, patch maps and masks."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if report.by_level(results, "franca", "val"):
        _write_lines(folder / "knn_by_level.csv", *_level_table(results))
        save_figure(_knn_by_level(results), folder / "knn_by_level.png")
        predicted, truth = (classes.tolist() for classes in knn.predict(data, "val", params))
        names = [(data.classes[true], data.classes[seen]) for true, seen in zip(truth, predicted, strict=True)]
        _write_lines(folder / "confusion.csv", "actual,predicted", map(_csv_line, names))
        save_figure(_confusion(truth, predicted, data.classes), folder / "confusion.png")
    if segmenters:
        images = store.dense("test") or store.dense("val")
        assert images is not None
        rows = evenly_spaced(len(images), params.evaluate.sample_images).tolist()
        save_figure(_patch_maps(images, rows, segmenters), folder / "patch_maps.png")
        save_figure(_masks(images, rows, segmenters), folder / "masks.png")


def _level_table(results: dict[str, Any]) -> tuple[str, list[str]]:
    """Header and lines: a row a width; our own levels as `val` and `test`, all else as `<model>_<part>_<split>`."""
    columns: dict[str, dict[int, dict[str, Any]]] = {}
    for model in report.names(results):
        for benchmark in report.LEVELS:
            for split in ("val", "test"):
                own = model == "franca" and benchmark == "knn_levels"
                name = split if own else f"{model}_{benchmark.removeprefix('knn_')}_{split}"
                found = report.by_level(results, model, split, benchmark)
                if found or own:
                    columns[name] = found
    lines = []
    for width in columns["val"]:
        cells = [str(found[width]["value"]) if width in found else "" for found in columns.values()]
        lines.append(",".join([str(width), *cells]))
    return ",".join(["dim", *columns]), lines


def _csv_line(cells: Sequence[str]) -> str:
    """Quote what holds a comma, a quote or a line break."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="").writerow(cells)
    return buffer.getvalue()


def _write_lines(path: Path, header: str, lines: Iterable[str]) -> None:
    write_bytes(path, "".join(f"{line}\n" for line in [header, *lines]).encode())


def _knn_by_level(results: dict[str, Any]) -> Figure:
    """Accuracy of truncated embeddings with intervals, their controls, and the baselines as lines across."""
    split = "test" if report.by_level(results, "franca", "test") else "val"
    levels = report.by_level(results, "franca", split)
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    axes = figure.subplots()
    labels = []
    for row in results["rows"]:
        if (row["benchmark"], row["split"]) == ("knn", split) and row["model"] != "franca":
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
        ("franca", "knn_components", "--"),
        ("franca", "knn_random_dims", ":"),
        ("random_init", "knn_levels", "-"),
        ("random_init", "knn_components", "--"),
    ):
        rows = report.by_level(results, model, split, benchmark)
        if rows:
            label = f"{style(model)[0]}, {report.LEVELS[benchmark]}"
            heights = [row["value"] for row in rows.values()]
            axes.plot(list(rows), heights, color=style(model)[1], linestyle=dashes, linewidth=1.2, label=label)
    name, color = style("franca")
    axes.errorbar(
        list(levels), values, yerr=errors, color=color, marker="o", linewidth=2, capsize=3, label=f"{name}, first D"
    )
    labels.append((values[-1], name, color))
    axes.legend(fontsize=8, frameon=False)
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(levels), [str(width) for width in levels])
    axes.minorticks_off()
    axes.set_xlabel("first dimensions of the embedding that are kept")
    axes.set_ylabel(f"k-NN accuracy on {split}, %")
    _bare(axes)
    _label_lines(axes, labels)
    return figure


def _label_lines(axes: Any, labels: list[tuple[float, str, str]]) -> None:
    """Names beside the right edge at the height of their lines, pushed apart where they would overlap."""
    low, high = axes.get_ylim()
    gap, floor = (high - low) / 18, low
    for value, name, color in sorted(labels):
        floor = max(value, floor)
        axes.annotate(
            f"{name} {value:.1f}", (1.02, floor), xycoords=("axes fraction", "data"), color=color, va="center"
        )
        floor += gap


def _bare(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e5e5e5", linewidth=0.8)
    axes.set_axisbelow(True)


def _confusion(truth: list[int], predicted: list[int], classes: list[str]) -> Figure:
    """Share of each true class that is taken for each class, in percent."""
    counts = np.zeros((len(classes), len(classes)))
    np.add.at(counts, (truth, predicted), 1)
    shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = 2.2 + 0.48 * min(len(classes), 40)
    figure = Figure(figsize=(side + 0.6, side), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    if len(classes) <= 40:
        # Two dollars would be read as a formula.
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


def _patch_maps(images: DenseSet, rows: list[int], segmenters: dict[str, Segmenter]) -> Figure:
    """Images above the first three principal components of their patch features as red, green and blue."""
    bands = {"image": [np.asarray(images[row]) for row in rows]}
    for name in _shown(segmenters):
        segmenter = segmenters[name]
        features = [patch_features(segmenter.backbone, images[row], segmenter.side) for row in rows]
        colors = PrincipalColors.fit(torch.cat([part.flatten(0, 1) for part in features]))
        bands[style(name)[0]] = [colors(part) for part in features]
    return _tiles(bands)


def _masks(images: DenseSet, rows: list[int], segmenters: dict[str, Segmenter]) -> Figure:
    """Images above their true and their predicted masks."""
    palette = np.array([_rgb(CLASS_COLORS[i % len(CLASS_COLORS)]) for i in range(len(images.classes))])
    truth = []
    for row in rows:
        mask = images.mask(row)
        known = mask != images.ignore
        truth.append(np.where(known[..., None], palette[np.where(known, mask, 0)], _rgb(UNLABELED)))
    bands = {"image": [np.asarray(images[row]) for row in rows], "ground truth": truth}
    for name in _shown(segmenters):
        bands[style(name)[0]] = [palette[segmenters[name](images[row]).cpu().numpy()] for row in rows]
    names = images.classes if len(images.classes) <= len(CLASS_COLORS) else []
    return _tiles(bands, dict(zip(names, CLASS_COLORS, strict=False)))


def _shown(segmenters: dict[str, Segmenter]) -> list[str]:
    return [name for name in ("franca", "random_init") if name in segmenters]


def _rgb(color: str) -> list[float]:
    return [int(color[start : start + 2], 16) / 255 for start in (1, 3, 5)]


def _tiles(bands: dict[str, list[NDArray[Any]]], legend: dict[str, str] | None = None) -> Figure:
    """A column an image, a row a band; after `TILES_A_ROW` columns the rows start again below."""
    count = len(next(iter(bands.values())))
    columns = min(count, TILES_A_ROW)
    blocks = -(-count // columns)
    figure = Figure(
        figsize=(0.4 + 1.55 * columns, 1.55 * len(bands) * blocks + (0.4 if legend else 0.1)),
        layout=ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0),
    )
    grid = figure.subplots(len(bands) * blocks, columns, squeeze=False)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    for index in range(count):
        block, column = divmod(index, columns)
        for row, (name, pictures) in enumerate(bands.items()):
            axes = grid[block * len(bands) + row, column]
            axes.imshow(_center(pictures[index]), interpolation="nearest")
            if column == 0:
                axes.set_ylabel(name, fontsize=10)
    if legend:
        handles = [Patch(facecolor=color, label=name) for name, color in legend.items()]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=10)
    return figure


def _center(picture: NDArray[Any]) -> NDArray[Any]:
    """The middle square."""
    side = min(picture.shape[:2])
    top, left = ((length - side) // 2 for length in picture.shape[:2])
    return picture[top : top + side, left : left + side]
