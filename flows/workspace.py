"""The folder that a run works in: the project's own, or, for other parameters than its file's, one of its own."""

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from ruamel.yaml import YAML

from flows.process import Log, dvc
from franca.errors import FrancaError
from franca.params import Params, load_params
from franca.paths import PARAMS, RESULTS

# The experiment's commit is the flow's own; a machine that runs flows may have no name in its git configuration.
_SIGNATURE = {
    f"GIT_{role}_{part}": value
    for role in ("AUTHOR", "COMMITTER")
    for part, value in (("NAME", "Franca flow"), ("EMAIL", "franca@localhost"))
}


class Workspace(NamedTuple):
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
    return re.sub(r"[^\w-]+", "-", name)


@contextmanager
def experiment(params: Params, name: str, log: Log, stages: Sequence[str] = ()) -> Iterator[Workspace]:
    """Yield a git worktree whose params.yaml says `params`, to run `stages` in (default: all).

    The worktree has the project's commit with its uncommitted changes, shares its DVC cache, and keeps checkpoints
    and the MLflow database in the project (DVC_ROOT). Once the run is through it is saved as DVC experiment `name`,
    for `dvc exp show`, `diff` and `apply`, and the worktree goes. The project's own files are not touched, so any
    number of such runs may work at once.
    """
    root = Path.cwd()
    experiment = experiment_name(name)
    with _worktree(root) as folder:
        if (root / ".dvc/config.local").exists():
            shutil.copy(root / ".dvc/config.local", folder / ".dvc")
        cache = dvc(["cache", "dir"], root, lambda line: None)[-1]
        dvc(["cache", "dir", "--local", cache], folder, log)
        _write_params(folder / PARAMS, params)
        commit = _git(["rev-parse", "HEAD"], root).decode().strip()
        yield Workspace(folder, {"DVC_ROOT": str(root), "DVC_EXP_NAME": experiment, "DVC_EXP_BASELINE_REV": commit})
        save = ["exp", "save", "--force", "--include-untracked", str(RESULTS), "--name", experiment]
        dvc([*save, *stages], folder, log, _SIGNATURE)


@contextmanager
def _worktree(root: Path) -> Iterator[Path]:
    """A checkout of HEAD plus the uncommitted changes of tracked files, on the file system of DVC's cache."""
    home = root / ".dvc/tmp/flows"
    home.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=home))
    try:
        _git(["worktree", "add", "--quiet", "--detach", str(folder), "HEAD"], root)
        changes = _git(["diff", "--binary", "HEAD"], root)
        _git(["apply", "--allow-empty", "--whitespace=nowarn"], folder, changes)
        yield folder
    finally:
        subprocess.run(["git", "worktree", "remove", "--force", str(folder)], cwd=root, check=False)
        shutil.rmtree(folder, ignore_errors=True)


def _git(arguments: list[str], folder: Path, text: bytes = b"") -> bytes:
    done = subprocess.run(["git", *arguments], cwd=folder, input=text, capture_output=True, check=False)
    if done.returncode:
        raise FrancaError(f"git {arguments[0]}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout


def _write_params(path: Path, params: Params) -> None:
    """Change the values that differ and leave the rest of the file, comments too, as it is."""
    yaml = YAML()
    tree = yaml.load(path)
    _merge(tree, params.model_dump(mode="json", by_alias=True))
    with path.open("w", encoding="utf-8") as file:
        yaml.dump(tree, file)


def _merge(tree: Any, values: dict[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, dict):
            _merge(tree[key], value)
        elif tree[key] != value:
            tree[key] = value
