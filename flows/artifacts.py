"""Artifacts of a flow run in Prefect's UI: scores, differences to the baselines, and the registered version."""

import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from franca.files import read_json
from franca.paths import RESULTS
from franca.tracking.receipt import receipt_text


def publish_artifacts(folder: Path) -> None:
    """Create the artifacts from the results in the project folder `folder`."""
    results = read_json(folder / RESULTS / "evaluate/results.json")
    receipt = read_json(folder / RESULTS / "register/receipt.json")
    create_table_artifact(
        key="metrics",
        # Scores by number of dimensions, such as top1_96, come last: they are many.
        table=score_table(sorted(results["rows"], key=lambda row: bool(re.search(r"_\d+$", row["metric"])))),
        description=f"Scores with confidence intervals of {results['suite']['confidence']:.0%}.",
    )
    if rows := results.get("differences"):
        create_table_artifact(
            key="differences",
            table=difference_table(rows),
            description="The model's score minus the other's, with intervals; better if the interval excludes 0.",
        )
    page = receipt_text(receipt, markdown=True)
    create_markdown_artifact(key="model-version", markdown=page, description="Entry in the registry.")


def difference_table(rows: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Return a table of `differences` of `results.json`: one row per metric, one column per compared model."""
    return score_table([{**row, "model": row["against"]} for row in rows], sign="+")


def score_table(rows: list[dict[str, Any]], sign: str = "") -> list[dict[str, str]]:
    """Return a table of `rows` of `results.json`: one row per metric, one column per model.

    `sign` is that of the format specification: "+" shows the sign of positive numbers too.
    """
    table: dict[tuple[str, str, str], dict[str, str]] = defaultdict(dict)
    models = dict.fromkeys(row["model"] for row in rows)
    for row in rows:
        value, low, high = (format(row[name], f"{sign}.1f") for name in ("value", "low", "high"))
        cell = f"{value} [{low}, {high}]"
        table[row["benchmark"], row["split"], row["metric"]][row["model"]] = cell
    return [
        {"benchmark": benchmark, "split": split, "metric": metric, **{model: cells.get(model, "") for model in models}}
        for (benchmark, split, metric), cells in table.items()
    ]
