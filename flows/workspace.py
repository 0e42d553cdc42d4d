"""The folder in which a flow run works: the project itself, or a git worktree for parameters other than the file's."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from ruamel.yaml import YAML

from flows.commands import Log, dvc
from franca.git import run_git
from franca.params import Params, load_params
from franca.params.render import dump
from franca.paths import PARAMS, RESULTS
from franca.worktree import apply_patch, worktree

# Author of the experiment's commit: a machine that runs flows may have no name in its git configuration.
_SIGNATURE = {
    f"GIT_{role}_{part}": value
    for role in ("AUTHOR", "COMMITTER")
    for part, value in (("NAME", "Franca flow"), ("EMAIL", "franca@localhost"))
}


class Workspace(NamedTuple):
    """A folder to run commands in, and environment variables for them."""

    folder: Path
    env: dict[str, str]


@contextmanager
def workspace(params: Params, name: str, log: Log) -> Iterator[Workspace]:
    """Yield the current folder if its params.yaml says `params`, else the worktree of `experiment`."""
    root = Path.cwd()
    if params == load_params(root / PARAMS):
        yield Workspace(root, {})
        return
    log(f"these parameters are not those of {PARAMS}: the run becomes the DVC experiment {experiment_name(name)}")
    with experiment(params, name, log) as place:
        yield place


def experiment_name(name: str) -> str:
    """Return `name` as the name of a DVC experiment: letters, digits, `_` and `-` only."""
    return re.sub(r"[^\w-]+", "-", name)


@contextmanager
def experiment(params: Params, name: str, log: Log, stages: Sequence[str] = ()) -> Iterator[Workspace]:
    """Yield a git worktree whose params.yaml says `params`, to run `stages` in (default: all).

    The worktree has the project's commit with its uncommitted changes, shares its DVC cache, and keeps checkpoints
    and the MLflow database in the project (DVC_ROOT). A finished run is saved as DVC experiment `name`, for
    `dvc exp show`, `diff` and `apply`, and the worktree is deleted. The project's files do not change, so any number
    of such runs may work at the same time.
    """
    root = Path.cwd()
    experiment = experiment_name(name)
    with worktree(root) as folder:
        apply_patch(folder, run_git("diff", "--binary", "HEAD", folder=root))
        _write_params(folder / PARAMS, params)
        commit = run_git("rev-parse", "HEAD", folder=root).decode().strip()
        yield Workspace(folder, {"DVC_ROOT": str(root), "DVC_EXP_NAME": experiment, "DVC_EXP_BASELINE_REV": commit})
        save = ["exp", "save", "--force", "--include-untracked", str(RESULTS), "--name", experiment]
        dvc([*save, *stages], folder, log, _SIGNATURE)


def _write_params(path: Path, params: Params) -> None:
    """Change the values that differ; comments and the rest of the file stay."""
    tree = YAML().load(path)
    _merge(tree, params.model_dump(mode="json", by_alias=True))
    path.write_text(dump(tree), encoding="utf-8")


def _merge(tree: dict[str, Any], values: dict[str, Any]) -> None:
    for key in [key for key in tree if key not in values]:
        del tree[key]
    for key, value in values.items():
        if isinstance(value, dict) and isinstance(tree.get(key), dict):
            _merge(tree[key], value)
        elif key not in tree or tree[key] != value:
            tree[key] = value
