"""DVC experiments: commits under refs/exps, which keep their files in DVC's cache alive."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from franca.dvc import run_dvc
from franca.git import run_git
from franca.retention.item import Item


def old_experiments(root: Path, keep: int) -> Iterator[Item]:
    """Yield the finished DVC experiments beyond the `keep` newest.

    Args:
        root: The project.
        keep: How many stay.
    """
    listed = run_git("for-each-ref", "--sort=-creatordate", "--format=%(refname)", "refs/exps", folder=root).decode()
    # refs/exps/ab/cdef.../NAME; others, such as refs/exps/exec/..., are DVC's own.
    names = [parts[4] for parts in (line.split("/") for line in listed.splitlines()) if _is_experiment(parts)]
    for name in dict.fromkeys(names[keep:]):
        yield Item("DVC experiment", name, "older", 0, partial(run_dvc, "exp", "remove", "--quiet", name, folder=root))


def _is_experiment(parts: list[str]) -> bool:
    return len(parts) == 5 and len(parts[2]) == 2 and len(parts[3]) == 38
