"""Results as text tables and as the nested metrics that DVC compares. Imports no torch."""

from typing import Any

from franca.benchmarks import COLUMNS, LEVELS, OURS, TITLES

MAX_COLUMNS = 6
"""Columns of a table; further ones go into a table below."""


def titles(results: dict[str, Any]) -> dict[str, str]:
    """Return the title of each model of the results, in their order; a comparator has its name as title."""
    return {row["model"]: TITLES.get(row["model"], row["model"]) for row in results["rows"]}


def table(results: dict[str, Any], split: str) -> list[str]:
    """Return lines of text: a row per model, a column per benchmark, the scores of `split` with their intervals."""
    scores = {(row["model"], row["benchmark"], row["metric"]): row for row in results["rows"] if row["split"] == split}
    columns = [column for column in COLUMNS if any(key[1:] == column[:2] for key in scores)]
    head = f"On {split}, {100 * results['suite']['confidence']:g} % intervals"
    return _lines(head, columns, titles(results), scores)


def cell(row: dict[str, Any] | None, sign: str = "") -> str:
    """Return a value with its interval, or "-" if `row` is None; with `sign` "+", positive numbers get a plus."""
    if row is None:
        return "-"
    value, low, high = (format(row[name], f"{sign}.1f") for name in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def difference_table(results: dict[str, Any], split: str) -> list[str]:
    """Return lines of text: the score of this model minus that of each other model, with confidence intervals."""
    found = {
        (row["against"], row["benchmark"], row["metric"]): row
        for row in results.get("differences", [])
        if row["split"] == split
    }
    columns = [column for column in COLUMNS if any(key[1:] == column[:2] for key in found)]
    return _lines(f"This model minus …, on {split}", columns, titles(results), found, sign="+")


def _lines(
    head: str,
    columns: list[tuple[str, str, str]],
    models: dict[str, str],
    rows: dict[tuple[str, str, str], dict[str, Any]],
    sign: str = "",
) -> list[str]:
    """Return tables of at most `MAX_COLUMNS` columns, one below the other, without models that have no value."""
    lines: list[str] = []
    for start in range(0, max(1, len(columns)), MAX_COLUMNS):
        part = columns[start : start + MAX_COLUMNS]
        lines += [""] * bool(lines) + [_line(head, [title for *_, title in part])]
        for model, name in models.items():
            cells = [cell(rows.get((model, benchmark, metric)), sign) for benchmark, metric, _ in part]
            if set(cells) - {"-"}:
                lines.append(_line(name, cells))
    return lines


def _line(head: str, cells: list[str]) -> str:
    return f"{head:26}" + "".join(f"{text:>22}" for text in cells)


def levels(results: dict[str, Any], split: str) -> list[str]:
    """Return lines of text: k-NN of each model on its first D dimensions, D random ones and D components."""
    lines: list[str] = []
    for model, name in titles(results).items():
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
    """Return the rows of a benchmark of `LEVELS` by number of dimensions; empty if it was not measured."""
    rows = [row for row in results["rows"] if (row["model"], row["split"]) == (model, split)]
    return {int(row["metric"].removeprefix("top1_")): row for row in rows if row["benchmark"] == benchmark}


def metrics(results: dict[str, Any]) -> dict[str, dict[str, dict[str, float]]]:
    """Return the scores of our model: benchmark -> split -> metric -> value."""
    nested: dict[str, dict[str, dict[str, float]]] = {}
    for row in results["rows"]:
        if row["model"] == OURS:
            nested.setdefault(row["benchmark"], {}).setdefault(row["split"], {})[row["metric"]] = row["value"]
    return nested


def skipped(results: dict[str, Any]) -> list[str]:
    """Return a line for each benchmark, or split of a benchmark, that was not measured, with the reason."""
    return [f"Skipped: {what} ({reason})" for what, reason in results.get("skipped", {}).items()]


def text(results: dict[str, Any]) -> str:
    """Return all tables and what was skipped."""
    blocks = [
        *(part for split in ("val", "test") for part in (table(results, split), difference_table(results, split))),
        levels(results, "test"),
    ]
    lines = [line for block in blocks if len(block) > 1 for line in ["", *block]]
    lines += ["", *skipped(results)]
    return "\n".join(lines).rstrip()
