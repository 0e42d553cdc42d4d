"""The data: is it in git as data.dvc, and has it been pulled."""

import os
from collections.abc import Iterator
from pathlib import Path

from franca.doctor.finding import Finding, ok, problem, warning
from franca.errors import FrancaError
from franca.yaml_file import read_yaml

CHECK = "data"
FILE = "data.dvc"
MAX_COUNTED = 100_000
"""Files up to which they are counted; of more, only the presence of the folder is checked."""


def check_data(root: Path) -> Iterator[Finding]:
    """Yield a finding about each output of data.dvc."""
    if not (root / FILE).exists():
        yield ok(CHECK, f"no {FILE}; prepare.source is not versioned by DVC")
        return
    try:
        outputs = list(read_yaml(root / FILE)["outs"])
        facts = [(str(out["path"]), out.get("nfiles"), out.get("size")) for out in outputs]
    except (FrancaError, KeyError, TypeError, AttributeError) as error:
        yield problem(CHECK, f"{FILE}: not a file of DVC ({error})", f"`git checkout {FILE}`")
        return
    for path, files, size in facts:
        yield _output(root / path, path, files, size)


def _output(path: Path, name: str, files: int | None, size: int | None) -> Finding:
    if not path.exists():
        return problem(CHECK, f"{name}: not here", f"`dvc pull {FILE}`")
    if files is None or files > MAX_COUNTED or not path.is_dir():
        return ok(CHECK, f"{name}: there")
    found, total = _count(path)
    if (found, total) == (files, size if size is not None else total):
        return ok(CHECK, f"{name}: {found:,} files as in {FILE}")
    text = f"{name}: {found:,} files of {total / 1e6:,.1f} MB, not {files:,} of {(size or 0) / 1e6:,.1f} MB"
    return warning(
        CHECK, f"{text} as in {FILE}", f"`dvc add {name}` to keep the change, `dvc checkout {FILE}` to undo"
    )


def _count(folder: Path) -> tuple[int, int]:
    """Return number and total size of the files of a folder."""
    sizes = [
        os.stat(os.path.join(place, name)).st_size
        for place, _, names in os.walk(folder)
        for name in names
        if os.path.exists(os.path.join(place, name))
    ]
    return len(sizes), sum(sizes)
