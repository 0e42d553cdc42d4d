"""The pages that are generated from the code are up to date, and every page is in the site."""

from pathlib import Path

import pytest

from docs.pages import pages
from franca.yaml_file import read_yaml
from tests.documented import ROOT

GENERATED = list(pages())


@pytest.mark.parametrize(("path", "text"), GENERATED, ids=[path.name for path, _ in GENERATED])
def test_generated_pages_are_up_to_date(path: Path, text: str) -> None:
    assert path.read_text(encoding="utf-8") == text, "run `python -m docs.pages`"


def test_navigation_has_every_page() -> None:
    named = {page for section in read_yaml(ROOT / "mkdocs.yml")["nav"] for page in leaves(section)}
    assert {page for page in named if (ROOT / "docs" / page).exists()} == {
        path.name for path in (ROOT / "docs").glob("*.md")
    }
    outside = {page for page in named if not (ROOT / "docs" / page).exists()}
    assert outside and all((ROOT / page).exists() for page in outside)


def leaves(entry: dict[str, object]) -> list[str]:
    """Return the paths of an entry of the navigation."""
    (value,) = entry.values()
    return [str(value)] if isinstance(value, str) else [page for child in value for page in leaves(child)]  # type: ignore[attr-defined]
