"""A comparison of several evaluations as an HTML page. Imports no torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from franca.benchmarks import BY_NAME
from franca.data.store.files.names import printable
from franca.evaluation.pictures.style import COMPARATOR_COLORS, style
from franca.evaluation.report_page.charts import bar, difference_axis, judged, score_axis
from franca.evaluation.report_page.page import ScoreRow, ScoreTable, render
from franca.evaluation.side_by_side import main_metrics
from franca.evaluation.verdicts import is_task
from franca.files import write_bytes


def write_comparison(path: Path, content: Mapping[str, Any]) -> None:
    """Write the page; the same content gives the same bytes.

    Args:
        path: File to write.
        content: Result of `side_by_side`.
    """
    names = [model["name"] for model in content["models"]]
    page = render(
        "comparison.html",
        first=printable(names[0]),
        others=[printable(name) for name in names[1:]],
        tables=_tables(content),
        models=[(printable(model["name"]), model["model_digest"]) for model in content["models"]],
        confidence=f"{100 * content['suite']['confidence']:g} %",
        data_digest=content["data_digest"],
        suite=content["suite"],
        rows=[
            dict(row) | {"name": printable(row["model"]), "unit": _unit(row["benchmark"])} for row in content["scores"]
        ],
    )
    write_bytes(path, page)


def _tables(content: Mapping[str, Any]) -> list[ScoreTable]:
    names = [model["name"] for model in content["models"]]
    colors = [style("franca")[1], *COMPARATOR_COLORS]
    tables = []
    for benchmark, split, metric in main_metrics(content):
        scores, gaps = (
            {
                row["model"]: row
                for row in content[part]
                if (row["benchmark"], row["split"], row["metric"]) == (benchmark, split, metric)
            }
            for part in ("scores", "differences")
        )
        about = BY_NAME[benchmark]
        axis, middle = score_axis(list(scores.values()), about.unit), difference_axis(list(gaps.values()))
        rows = []
        for number, name in enumerate(names):
            if name not in scores:
                continue
            gap = gaps.get(name)
            rows.append(
                ScoreRow(
                    printable(name),
                    colors[number % len(colors)],
                    number == 0,
                    scores[name],
                    bar(scores[name], *axis),
                    gap,
                    bar(gap, *middle) if gap else None,
                    judged(gap, about.higher_is_better, is_task(benchmark)) if gap else None,
                )
            )
        count = next(iter(scores.values()))["n"]
        tables.append(ScoreTable(about.title, about.unit, split, count, about.higher_is_better, tuple(rows)))
    return tables


def _unit(benchmark: str) -> str:
    return BY_NAME[benchmark].unit if benchmark in BY_NAME else ""
