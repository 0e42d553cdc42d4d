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
    ("views", "top1", "view agreement"),
    ("rank", "rankme", "RankMe"),
)
LEVELS = {
    "knn_levels": "first D",
    "knn_random_dims": "D at random",
    "knn_components": "D principal components",
}
"""Benchmarks that measure a model by a part of its dimensions, and which part that is."""


def names(results: dict[str, Any]) -> dict[str, str]:
    """How each model of the results is called, in their order."""
    return {row["model"]: NAMES.get(row["model"], row["model"]) for row in results["rows"]}


def table(results: dict[str, Any], split: str) -> list[str]:
    """Lines of text: a row a model, a column a benchmark, scores of `split` with their intervals."""
    scores = {(row["model"], row["benchmark"], row["metric"]): row for row in results["rows"] if row["split"] == split}
    columns = [column for column in COLUMNS if any(key[1:] == column[:2] for key in scores)]
    head = f"On {split}, {100 * results['suite']['confidence']:g} % intervals"
    lines = [_line(head, [title for *_, title in columns])]
    for model, name in names(results).items():
        cells = [cell(scores.get((model, benchmark, metric))) for benchmark, metric, _ in columns]
        if set(cells) - {"-"}:
            lines.append(_line(name, cells))
    return lines


def cell(row: dict[str, Any] | None, sign: str = "") -> str:
    """A score with its interval, or a difference, whose plus is shown by `sign` "+"."""
    if row is None:
        return "-"
    value, low, high = (format(row[name], f"{sign}.1f") for name in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def difference_table(results: dict[str, Any], split: str) -> list[str]:
    """Return lines of text: the model's score minus each other model's, with confidence intervals."""
    found = {
        (row["against"], row["benchmark"], row["metric"]): row
        for row in results.get("differences", [])
        if row["split"] == split
    }
    columns = [column for column in COLUMNS if any(key[1:] == column[:2] for key in found)]
    lines = [_line(f"This model minus …, on {split}", [title for *_, title in columns])]
    for model, name in names(results).items():
        cells = [cell(found.get((model, benchmark, metric)), sign="+") for benchmark, metric, _ in columns]
        if set(cells) - {"-"}:
            lines.append(_line(name, cells))
    return lines


def _line(head: str, cells: list[str]) -> str:
    return f"{head:26}" + "".join(f"{text:>22}" for text in cells)


def levels(results: dict[str, Any], split: str) -> list[str]:
    """Lines of text: k-NN of each model by its first dimensions, beside as many random ones and components."""
    lines: list[str] = []
    for model, name in names(results).items():
        for benchmark, part in LEVELS.items():
            found = by_level(results, model, split, benchmark)
            if found and not lines:
                lines.append(f"{f'k-NN on {split}':26}{'of D':24}" + "".join(f"{width:>8}" for width in found))
            if found:
                lines.append(f"{name:26}{part:24}" + "".join(f"{row['value']:>8.1f}" for row in found.values()))
    return lines


def by_level(
    results: dict[str, Any], model: str, split: str, benchmark: str = "knn_levels"
) -> dict[int, dict[str, Any]]:
    """Rows of a benchmark of `LEVELS`, by width."""
    rows = [row for row in results["rows"] if (row["model"], row["split"]) == (model, split)]
    return {int(row["metric"].removeprefix("top1_")): row for row in rows if row["benchmark"] == benchmark}


def metrics(results: dict[str, Any]) -> dict[str, dict[str, dict[str, float]]]:
    """Our model's scores: benchmark -> split -> metric -> value."""
    nested: dict[str, dict[str, dict[str, float]]] = {}
    for row in results["rows"]:
        if row["model"] == "franca":
            nested.setdefault(row["benchmark"], {}).setdefault(row["split"], {})[row["metric"]] = row["value"]
    return nested


def text(results: dict[str, Any]) -> str:
    """All tables, and what was left out and why."""
    blocks = [
        *(part for split in ("val", "test") for part in (table(results, split), difference_table(results, split))),
        levels(results, "test"),
    ]
    lines = [line for block in blocks if len(block) > 1 for line in ["", *block]]
    lines += ["", *(f"left out: {what} ({reason})" for what, reason in results["skipped"].items())]
    return "\n".join(lines).rstrip()
