"""Results as people and tools read them: a table, and the nested metrics that DVC compares. Imports no torch."""

from typing import Any

NAMES = {
    "franca": "this model",
    "random_init": "same ViT, random weights",
    "raw_pixels": "raw pixels",
    "color_histogram": "color histogram",
}
"""How our model and its baselines are called; a comparator by its own name."""
COLUMNS = (
    ("knn", "top1", "k-NN"),
    ("linear", "top1", "linear probe"),
    ("segmentation", "miou", "segmentation mIoU"),
    ("position", "r2", "position R2"),
)


def names(results: dict[str, Any]) -> dict[str, str]:
    """How each model of the results is called, in their order."""
    return {row["model"]: NAMES.get(row["model"], row["model"]) for row in results["rows"]}


def table(results: dict[str, Any], split: str) -> list[str]:
    """Lines of text: a row a model, a column a benchmark, scores of `split` with their intervals."""
    scores = {(row["model"], row["benchmark"], row["metric"]): row for row in results["rows"] if row["split"] == split}
    columns = [column for column in COLUMNS if any(key[1:] == column[:2] for key in scores)]
    head = f"On {split}, {100 * results['suite']['confidence']:g} % intervals"
    lines = [f"{head:26}" + "".join(f"{title:>20}" for *_, title in columns)]
    for model, name in names(results).items():
        cells = [cell(scores.get((model, benchmark, metric))) for benchmark, metric, _ in columns]
        if set(cells) != {"-"}:
            lines.append(f"{name:26}" + "".join(f"{cell:>20}" for cell in cells))
    return lines


def cell(row: dict[str, Any] | None) -> str:
    """A score with its interval."""
    return "-" if row is None else f"{row['value']:.1f} [{row['low']:.1f}, {row['high']:.1f}]"


def levels(results: dict[str, Any], split: str) -> list[str]:
    """Lines of text: k-NN of this model and its random twin by Matryoshka level."""
    lines: list[str] = []
    for model, name in names(results).items():
        found = by_level(results, model, split)
        if found and not lines:
            lines.append(f"{f'k-NN on {split}, first D':26}" + "".join(f"{width:>8}" for width in found))
        if found:
            lines.append(f"{name:26}" + "".join(f"{row['value']:>8.1f}" for row in found.values()))
    return lines


def by_level(results: dict[str, Any], model: str, split: str) -> dict[int, dict[str, Any]]:
    """Rows of benchmark `knn_levels`, by width."""
    rows = [row for row in results["rows"] if (row["model"], row["split"]) == (model, split)]
    return {int(row["metric"].removeprefix("top1_")): row for row in rows if row["benchmark"] == "knn_levels"}


def metrics(results: dict[str, Any]) -> dict[str, dict[str, dict[str, float]]]:
    """Our model's scores: benchmark -> split -> metric -> value."""
    nested: dict[str, dict[str, dict[str, float]]] = {}
    for row in results["rows"]:
        if row["model"] == "franca":
            nested.setdefault(row["benchmark"], {}).setdefault(row["split"], {})[row["metric"]] = row["value"]
    return nested


def text(results: dict[str, Any]) -> str:
    """All tables, and what was left out and why."""
    blocks = [table(results, "val"), table(results, "test"), levels(results, "test")]
    lines = [line for block in blocks if len(block) > 1 for line in ["", *block]]
    lines += ["", *(f"left out: {what} ({reason})" for what, reason in results["skipped"].items())]
    return "\n".join(lines).rstrip()
