"""Write the README's tables of results from the runs' own files: `python docs/results.py`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from franca.benchmarks import BY_NAME, COLOR_HISTOGRAM, COLUMNS, OURS, RANDOM_INIT, RAW_PIXELS, TITLES
from franca.evaluation.report import cell
from franca.files import read_json, write_bytes
from franca.presets import load

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
START, END = "<!-- results: written by `python docs/results.py` -->\n", "<!-- /results -->\n"


class Run(NamedTuple):
    """A finished run: how its parameters were made, and its results."""

    title: str
    results: Path
    preset: str | None = None
    """the preset, if the results do not say how many epochs it took"""


SATELLITE = (
    Run("preset `overhead-cpu`", ROOT / "results/evaluate/results.json", "overhead-cpu"),
    Run("preset `eurosat-cpu-long`", ROOT / "docs/results/eurosat-cpu-long.json", "eurosat-cpu-long"),
)
PHOTOGRAPHS = (Run("parameters by `franca init`, half an hour", ROOT / "docs/results/photos.json"),)


def tables() -> str:
    """Return the tables of both data sets."""
    return (
        f"Satellite images (EuroSAT):\n\n{table(SATELLITE)}\nPhotographs (a part of CIFAR-10):\n\n{table(PHOTOGRAPHS)}"
    )


def table(runs: Sequence[Run]) -> str:
    """Return test scores with intervals: two rows per run, a row per baseline, a column per benchmark with labels."""
    found = [(run, read_json(run.results)) for run in runs]
    measured = {row["benchmark"] for _, results in found for row in results["rows"]}
    shown = [column for column in COLUMNS if column[0] in measured and BY_NAME[column[0]].needs & {"labels", "masks"}]
    lines = [
        "| | " + " | ".join(title for *_, title in shown) + " |",
        "| --- |" + " ---: |" * len(shown),
    ]
    for run, results in found:
        epochs = load(run.preset).pretrain.epochs if run.preset else results["epochs"]
        lines.append(_line(f"**Franca, {run.title}** ({epochs:g} epochs)", results, OURS, shown))
        lines.append(_line(TITLES[RANDOM_INIT], results, RANDOM_INIT, shown))
    for model in (RAW_PIXELS, COLOR_HISTOGRAM):
        lines.append(_line(TITLES[model], found[0][1], model, shown))
    return "\n".join(lines) + "\n"


def _line(title: str, results: dict[str, Any], model: str, columns: list[tuple[str, str, str]]) -> str:
    rows = {
        (row["benchmark"], row["metric"]): row
        for row in results["rows"]
        if row["split"] == "test" and row["model"] == model
    }
    cells = [cell(rows.get((benchmark, metric))) for benchmark, metric, _ in columns]
    return f"| {title} | " + " | ".join(cells) + " |"


def readme() -> str:
    """Return the README with the tables of the present results."""
    before, rest = README.read_text(encoding="utf-8").split(START)
    return before + START + tables() + END + rest.split(END)[1]


if __name__ == "__main__":
    write_bytes(README, readme().encode())
