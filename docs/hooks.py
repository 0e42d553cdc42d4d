"""MkDocs hooks: add pages of the repository that are outside docs/, and adapt the links to them."""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
OUTSIDE = (
    "CHANGELOG.md",
    "benchmarks/DECODING.md",
    "benchmarks/GPU.md",
    "benchmarks/PASSES.md",
    "benchmarks/RESULTS.md",
    "benchmarks/SERVING.md",
)
"""Pages outside docs/, which have the same path in the site."""
LINK = re.compile(r"(?<=\]\()([^)\s#:]+)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages outside docs/."""
    for name in OUTSIDE:
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Rewrite links, which are relative to the repository so that a code host follows them, for the site."""
    here = page.file.src_uri
    folder = posixpath.dirname(here if here in OUTSIDE else f"docs/{here}")

    def rewrite(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, match[1]))
        if target not in OUTSIDE and not target.startswith("docs/"):
            return match[1]
        return posixpath.relpath(target.removeprefix("docs/"), posixpath.dirname(here) or ".")

    return LINK.sub(rewrite, markdown)
