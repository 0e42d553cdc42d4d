"""A comparison of several evaluations as an HTML page. Imports no torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from franca.data.store.files.names import printable
from franca.evaluation.pictures.style import COMPARATOR_COLORS, style
from franca.evaluation.report_page.page import render
from franca.evaluation.report_page.score_table import ScoreTable, TableModel, all_rows, by_model, score_table
from franca.evaluation.side_by_side import main_metrics
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
        rows=all_rows(content["scores"], {name: name for name in names}),
    )
    write_bytes(path, page)


def _tables(content: Mapping[str, Any]) -> list[ScoreTable]:
    colors = [style("franca")[1], *COMPARATOR_COLORS]
    models = [
        TableModel(model["name"], model["name"], colors[number % len(colors)], number == 0)
        for number, model in enumerate(content["models"])
    ]
    tables = []
    for benchmark, split, metric in main_metrics(content):
        scores, differences = (
            by_model(content[part], "model", benchmark, split, metric) for part in ("scores", "differences")
        )
        tables.append(score_table(benchmark, split, models, scores, differences))
    return tables
