"""Write the pages that are generated from the code, docs/parameters.md and docs/cli.md: `python -m docs.pages`."""

from collections.abc import Iterator
from pathlib import Path

from docs import cli_page, parameters_page
from franca.files import write_bytes

FOLDER = Path(__file__).parent
NOTICE = "<!-- Written by `python -m docs.pages`: do not edit. -->"


def pages() -> Iterator[tuple[Path, str]]:
    """Yield path and content of each generated page."""
    for name, title, lines in (
        ("parameters.md", "Parameters", parameters_page.lines()),
        ("cli.md", "Command line", cli_page.lines()),
    ):
        yield FOLDER / name, "\n".join([NOTICE, "", f"# {title}", "", *lines]) + "\n"


if __name__ == "__main__":
    for path, text in pages():
        write_bytes(path, text.encode())
