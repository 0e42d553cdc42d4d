"""What a run shows in Prefect's UI when it is done: scores beside the baselines', differences, and its version."""

from collections import defaultdict
from pathlib import Path
from typing import Any

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from franca.files import read_json
from franca.paths import RESULTS


def publish(folder: Path) -> None:
    results = read_json(folder / RESULTS / "evaluate/results.json")
    receipt = read_json(folder / RESULTS / "register/receipt.json")
    create_table_artifact(
        key="metrics",
        table=score_table(results["rows"]),
        description=f"Scores with confidence intervals of {results['suite']['confidence']:.0%}.",
    )
    if rows := results.get("differences"):
        create_table_artifact(
            key="differences",
            table=difference_table(rows),
            description="The model's score less each other one's, with intervals; better if the interval excludes 0.",
        )
    create_markdown_artifact(key="model-version", markdown=receipt_page(receipt), description="Entry in the registry.")


def receipt_page(receipt: dict[str, Any]) -> str:
    """Version, aliases, why it has them, and links to MLflow's pages, as Markdown."""
    aliases = ", ".join(receipt["aliases"]) or "no alias"
    reason, *rest = receipt["decision"]
    lines = [f"**{receipt['model']} version {receipt['version']}** ({aliases}) on {receipt['tracking_uri']}", ""]
    lines += [f"**{reason}**", "", *(f"- {sentence}" for sentence in rest)]
    lines += [f"- [{what} in MLflow]({link})" for what, link in receipt["links"].items()]
    return "\n".join(lines)


def difference_table(rows: list[dict[str, Any]]) -> list[dict[str, str]]:
    """A row a metric and a column a model that ours is compared with, from one difference a row."""
    return score_table([{**row, "model": row["against"]} for row in rows], sign="+")


def score_table(rows: list[dict[str, Any]], sign: str = "") -> list[dict[str, str]]:
    """A row a metric and a column a model, from one result a row; `sign` "+" shows the plus of differences."""
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
