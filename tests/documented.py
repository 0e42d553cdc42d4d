"""The commands that README.md and docs/*.md tell a user to type."""

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *(page for page in sorted((ROOT / "docs").glob("*.md")) if page.name != "cli.md")]
"""All pages but the one that is generated from the parser."""
PROGRAMS = (
    r"franca|python|dvc|make|mlflow|prefect|docker|git|pip|torchrun|sbatch|curl|cp|export|\.|pytest|pre-commit"
    r"|[A-Z_]+=\S+"
)
_COMMAND = re.compile(rf"({PROGRAMS}) \S")
_SPAN = re.compile(r"`([^`\n]+)`")


def commands(page: Path) -> Iterator[str]:
    """Command lines of a page in order, comments left out: lines of blocks, and code in sentences and table cells."""
    language: str | None = None
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.lstrip().startswith("```"):
            language = line.strip().removeprefix("```") if language is None else None
        elif language in ("", "sh") or (language is None and line.startswith("    ")):
            yield from _command(line)
        elif language is None:
            for span in _SPAN.findall(line):
                yield from _command(span)


def _command(text: str) -> Iterator[str]:
    stripped = re.sub(r"\s+#.*", "", text.strip())
    if _COMMAND.match(stripped):
        yield stripped


def all_commands() -> list[str]:
    """Each command of all pages once."""
    return list(dict.fromkeys(command for page in PAGES for command in commands(page)))
