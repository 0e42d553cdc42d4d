"""Write the README's table of results from the runs' own files: `python docs/results.py`."""

from pathlib import Path
from typing import Any

from franca.benchmarks import BY_NAME, COLOR_HISTOGRAM, COLUMNS, OURS, RANDOM_INIT, RAW_PIXELS, TITLES
from franca.evaluation.report import cell
from franca.files import read_json, write_bytes
from franca.presets import load

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
START, END = "<!-- results: written by `python docs/results.py` -->\n", "<!-- /results -->\n"
RUNS = {
    "overhead-cpu": ROOT / "results/evaluate/results.json",
    "eurosat-cpu-long": ROOT / "docs/results/eurosat-cpu-long.json",
}


def table() -> str:
    """Return test scores with intervals: two rows per run, a row per baseline, a column per benchmark with labels."""
    runs = {name: read_json(path) for name, path in RUNS.items()}
    measured = {row["benchmark"] for results in runs.values() for row in results["rows"]}
    shown = [column for column in COLUMNS if column[0] in measured and BY_NAME[column[0]].needs & {"labels", "masks"}]
    lines = [
        "| | " + " | ".join(title for *_, title in shown) + " |",
        "| --- |" + " ---: |" * len(shown),
    ]
    for name, results in runs.items():
        epochs = load(name).pretrain.epochs
        lines.append(_line(f"**Franca, preset `{name}`** ({epochs:g} epochs)", results, OURS, shown))
        lines.append(_line(TITLES[RANDOM_INIT], results, RANDOM_INIT, shown))
    for model in (RAW_PIXELS, COLOR_HISTOGRAM):
        lines.append(_line(TITLES[model], runs["overhead-cpu"], model, shown))
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
    """Return the README with the table of the present results."""
    before, rest = README.read_text(encoding="utf-8").split(START)
    return before + START + table() + END + rest.split(END)[1]


if __name__ == "__main__":
    write_bytes(README, readme().encode())
