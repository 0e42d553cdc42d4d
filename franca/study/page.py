"""A study's page: its scores and differences over seeds as Markdown tables, and a figure."""

import itertools
import math
import statistics
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from franca.benchmarks import MODELS, OURS
from franca.errors import FrancaError
from franca.files import write_bytes
from franca.study import records
from franca.study.figure import draw
from franca.study.grid import Study, expand
from franca.study.records import Record
from franca.study.statistics import CONFIDENCE, Mean, mean, paired

PAGES = Path("docs/studies")
PROBES = {"knn": "k-NN", "linear": "linear"}
PARTS = {"levels": "first D", "random_dims": "D at random", "components": "D components"}
BASELINES = {model.name: model.label for model in MODELS if model.name != OURS}
Scores = dict[int, float]
"""By seed."""


class Column(NamedTuple):
    """A column of the score tables: a probe on so many dimensions."""

    probe: str
    width: int

    @property
    def title(self) -> str:
        """Heading of the column."""
        return f"{PROBES[self.probe]} {self.width}"

    def scores(self, cells: Iterable[Record], part: str, model: str = OURS) -> Scores:
        """Return a model's score by seed on a part of `PARTS`."""
        found = {}
        for cell in cells:
            benchmark = cell["scores"].get(model, {}).get(f"{self.probe}_{part}", {})
            if f"top1_{self.width}" in benchmark:
                found[cell["seed"]] = benchmark[f"top1_{self.width}"]
        return found


class Group(NamedTuple):
    """Cells that differ in the compared axis and the seed alone."""

    title: str
    cells: dict[str, list[Record]]
    """by option of the compared axis"""

    @property
    def columns(self) -> list[Column]:
        """Columns of the table, by probe and number of dimensions."""
        widths = {
            (probe, int(metric.removeprefix("top1_")))
            for cells in self.cells.values()
            for cell in cells
            for probe in PROBES
            for metric in cell["scores"].get(OURS, {}).get(f"{probe}_levels", {})
        }
        return [Column(probe, width) for probe, width in sorted(widths)]


def write_page(study: Study, root: Path) -> None:
    """Write `docs/studies/NAME.md` and `NAME.svg` from the stored results of a study's present cells."""
    cells = expand(study, root, None)
    stored = records.load(study, root)
    found = [record for cell in cells if (record := records.find(stored, cell))]
    if not found:
        raise FrancaError(f"{records.path_of(study, root)}: no results of these cells; run the study")
    groups = list(_groups(study, found))
    draw(study.compare, groups, root / PAGES / f"{study.name}.svg")
    write_bytes(root / PAGES / f"{study.name}.md", _text(study, groups, found, len(cells)).encode())


def _groups(study: Study, found: list[Record]) -> Iterator[Group]:
    others = [axis for axis in study.axes if axis != study.compare]
    for chosen in itertools.product(*(study.axes[axis] for axis in others)):
        cells: dict[str, list[Record]] = {}
        for option in study.axes[study.compare]:
            options = {**dict(zip(others, chosen, strict=True)), study.compare: option}
            if of_option := [record for record in found if record["options"] == options]:
                cells[option] = of_option
        if cells:
            yield Group(", ".join(chosen) or "all cells", cells)


def _text(study: Study, groups: list[Group], found: list[Record], wanted: int) -> str:
    lines = [f"# {study.title}", ""]
    lines += [f"<!-- Written by `python -m flows.study studies/{study.name}.yaml`; change the study file. -->", ""]
    lines += [study.description.strip(), ""]
    lines += [*_conditions(study, found, wanted), ""]
    lines += [f"![scores by dimensions]({study.name}.svg)", ""]
    for group in groups:
        if not group.columns:
            lines += [f"## {group.title}", "", "No scores: the images of train or test have no labels.", ""]
            lines += [*_costs(study, group), ""]
            continue
        lines += [f"## {group.title}", "", *_scores(study, group), "", *_differences(study, group), ""]
        lines += [*_costs(study, group), ""]
    return "\n".join(lines).rstrip() + "\n"


def _conditions(study: Study, found: list[Record], wanted: int) -> list[str]:
    steps = sorted({record["steps"] for record in found})
    commits = sorted({record["commit"] for record in found})
    machines = sorted(
        {
            f"{run['device']} ({run['cpu_capability']}, {run['threads']} thread(s), {run['precision']})"
            for run in (record["run"] for record in found)
            if run
        }
    )
    lines = [
        f"{len(found)} of {wanted} cells are finished; each is a whole run of"
        f" {' or '.join(format(count, ',') for count in steps)} steps. Scores are accuracies on test in percent: mean"
        f" over seeds ± half of the {CONFIDENCE:.0%} t interval. A difference is taken within each seed first, so its"
        " interval is that of pairs. The interval holds for other seeds on the same images.",
        "",
        f"Code: {', '.join(commits)}. Machine: {', '.join(machines) or 'unknown'}.",
    ]
    if len({record["code"] for record in found}) > 1:
        lines += ["", "**The cells were computed by different versions of the code.**"]
    return lines


def _scores(study: Study, group: Group) -> list[str]:
    """Return a table with a row for each option and part of the dimensions, and the baselines' scores below it."""
    columns = group.columns
    lines = _head([study.compare, "of the embedding", *(column.title for column in columns)])
    for option, cells in group.cells.items():
        for part, title in PARTS.items():
            lines.append(_row([option, title, *(_shown(column.scores(cells, part)) for column in columns)]))
    every = [cell for cells in group.cells.values() for cell in cells]
    random = [column.scores(every, "levels", "random_init") for column in columns]
    lines.append(_row(["random weights", PARTS["levels"], *map(_shown, random)]))
    baselines = []
    for model, title in BASELINES.items():
        values = [
            f"{mean([cell['scores'][model][probe]['top1'] for cell in every]).value:.1f} ({name})"
            for probe, name in PROBES.items()
            if all("top1" in cell["scores"].get(model, {}).get(probe, {}) for cell in every)
        ]
        if values:
            baselines.append(f"{title} {', '.join(values)}")
    return [*lines, "", f"Baselines by the whole of their features: {'; '.join(baselines) or 'none'}."]


def _differences(study: Study, group: Group) -> list[str]:
    """Return a table of paired differences: from the reference's, and of first dimensions from as many others."""
    columns = group.columns
    lines = _head(["difference", "of", *(column.title for column in columns)])
    shown = excluded = 0
    reference = group.cells.get(study.reference)
    rows: list[tuple[str, str, list[Mean | None]]] = []
    for option, cells in group.cells.items():
        if reference and option != study.reference:
            pairs = [paired(c.scores(cells, "levels"), c.scores(reference, "levels")) for c in columns]
            rows.append((f"{option} minus {study.reference}", PARTS["levels"], pairs))
    for option, cells in group.cells.items():
        for other in ("random_dims", "components"):
            pairs = [paired(c.scores(cells, "levels"), c.scores(cells, other)) for c in columns]
            rows.append((f"{PARTS['levels']} minus {PARTS[other]}", option, pairs))
    for title, of, pairs in rows:
        lines.append(_row([title, of, *(_difference(pair) for pair in pairs)]))
        known = [pair for pair in pairs if pair and not math.isnan(pair.half)]
        shown += len(known)
        excluded += sum(pair.excludes_zero for pair in known)
    by_chance = (1 - CONFIDENCE) * shown
    return [
        *lines,
        "",
        f"In bold: the interval excludes 0, as {excluded} of {shown} do. If no option made a difference, about"
        f" {by_chance:.0f} of {shown} would by chance.",
    ]


def _costs(study: Study, group: Group) -> list[str]:
    lines = _head([study.compare, "seeds", "head parameters", "step, ms", "peak memory, GiB", "loss"])
    for option, cells in group.cells.items():
        runs = [cell["run"] for cell in cells]
        lines.append(
            _row(
                [
                    option,
                    str(len(cells)),
                    *(_median(runs, name, spec) for name, spec in _COSTS.items()),
                    _median(cells, "loss", ".2f"),
                ]
            )
        )
    return [
        *lines,
        "",
        "Medians over seeds; steps are timed in the runs themselves, other work on the machine included.",
    ]


_COSTS = {"head_parameters": ",.0f", "step_ms": ".0f", "memory_gib": ".2f"}


def _median(items: list[dict[str, Any]], name: str, spec: str) -> str:
    values = [item[name] for item in items if item.get(name) is not None]
    return format(statistics.median(values), spec) if values else "-"


def _shown(scores: Scores) -> str:
    if not scores:
        return "-"
    value, half, _ = mean(list(scores.values()))
    return f"{value:.1f}" if math.isnan(half) else f"{value:.1f} ± {half:.1f}"


def _difference(pair: Mean | None) -> str:
    if pair is None:
        return "-"
    if math.isnan(pair.half):
        return f"{pair.value:+.1f}"
    text = f"{pair.value:+.1f} ± {pair.half:.1f}"
    return f"**{text}**" if pair.excludes_zero else text


def _head(titles: list[str]) -> list[str]:
    return [_row(titles), _row(["---"] * 2 + ["---:"] * (len(titles) - 2))]


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
