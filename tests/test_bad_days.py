"""docs/bad_days.md names tests that exist."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_row_names_a_test() -> None:
    text = (ROOT / "docs/bad_days.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith(("| Fault", "| ---"))]
    assert len(rows) > 40
    for row in rows:
        found = re.search(r"`(tests/\w[\w/]*\.py)::(test_\w+)` \|$", row)
        assert found, row
        tree = ast.parse((ROOT / found[1]).read_text(encoding="utf-8"))
        assert found[2] in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, row
