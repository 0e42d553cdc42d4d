"""Markdown tables."""

from typing import Any


def table(rows: list[dict[str, Any]]) -> str:
    """Return rows as Markdown tables; a row whose columns differ from those before starts a new table."""
    lines: list[str] = []
    columns: list[str] = []
    for row in rows:
        if list(row) != columns:
            columns = list(row)
            lines += ["", f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]
        lines.append(f"| {' | '.join(str(cell) for cell in row.values())} |")
    return "\n".join(lines)
