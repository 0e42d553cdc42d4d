"""The `franca reproduce` command: run a recorded run again from its commit, and compare what comes out."""

import os
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from franca.dvc import run_dvc
from franca.errors import FrancaError, NotReproduced
from franca.files import write_json
from franca.git import run_git
from franca.params import read_yaml
from franca.reproduction.verdict import LAST_STAGE, Verdict, compare, verdict_text
from franca.tracking.client import connect, server_errors
from franca.tracking.recorded_run import RecordedRun, download_run
from franca.worktree import apply_patch, worktree


def run(run_id: str, output: Path | None) -> None:
    """Reproduce a run in a worktree of its own, print the verdict, and write it as JSON if asked to.

    Nothing of the project changes, and the tracking server is only read.

    Args:
        run_id: ID of the MLflow run.
        output: JSON file to write the verdict to.

    Raises:
        NotReproduced: The results differ.
        FrancaError: The run cannot be reproduced: commit, data or artifacts are missing, or a stage failed.
    """
    with tempfile.TemporaryDirectory() as temporary:
        client = connect()
        with server_errors():
            recorded = download_run(client, run_id, Path(temporary))
        verdict = reproduce(recorded, Path.cwd())
    print(verdict_text(verdict))
    if output:
        write_json(output, verdict._asdict())
    if not verdict.equal:
        raise NotReproduced(f"{run_id}: reproduced with other results")


def reproduce(recorded: RecordedRun, root: Path) -> Verdict:
    """Repeat a run in a worktree and compare the results.

    Args:
        recorded: The run.
        root: The project, a clone of the repository that has the run's commit.

    Raises:
        FrancaError: The commit, the data or a model folder are missing, or a stage failed.
    """
    _fetch_commit(recorded, root)
    with worktree(root, recorded.commit) as folder:
        if patch := recorded.patch:
            apply_patch(folder, patch)
        (folder / "params.yaml").write_bytes((recorded.folder / "params.yaml").read_bytes())
        _get_data(folder)
        _check_paths(recorded, folder)
        print(f"running the stages up to {LAST_STAGE} at commit {recorded.commit[:10]} in {folder}", flush=True)
        # Nothing may come from a cache: neither stages that ran before nor checkpoints, which DVC_ROOT would find.
        _run_dvc(folder, "repro", "--force", "--no-run-cache", "--no-commit", LAST_STAGE)
        return compare(recorded, folder)


def _fetch_commit(recorded: RecordedRun, root: Path) -> None:
    """Make sure that the repository has the commit; raises FrancaError."""
    known = ("cat-file", "-e", f"{recorded.commit}^{{commit}}")
    for attempt in ("local", "fetched"):
        try:
            run_git(*known, folder=root)
            return
        except FrancaError:
            if attempt == "local":
                with suppress(FrancaError):
                    run_git("fetch", "--quiet", "--all", folder=root)
    where = f"; it is from {recorded.repository}" if recorded.repository else ""
    raise FrancaError(
        f"{recorded.run_id}: commit {recorded.commit[:10]} is not in this repository, and could not be fetched{where}"
    )


def _get_data(folder: Path) -> None:
    """Bring the data of the commit into the worktree, from DVC's cache or its remote; raises FrancaError."""
    try:
        _run_dvc(folder, "pull", "--quiet", "data.dvc")
    except FrancaError as error:
        raise FrancaError(
            f"the data of this commit are neither in DVC's cache nor in its remote ({error}); `dvc push` them where"
            " they are"
        ) from None


def _check_paths(recorded: RecordedRun, folder: Path) -> None:
    """Raise FrancaError if the parameters name a model folder that the worktree does not have.

    A relative folder is a part of the project, and the worktree has only those parts that git or `data.dvc` track.
    """
    values = read_yaml(folder / "params.yaml")
    init, comparators = values.get("pretrain", {}).get("init"), values.get("evaluate", {}).get("comparators") or []
    named = [("pretrain.init", init)] if init else []
    for key, name in [*named, *(("evaluate.comparators", name) for name in comparators)]:
        if not (folder / name).is_dir():
            missing = "this machine does" if Path(name).is_absolute() else "git does not track it, so the commit does"
            raise FrancaError(
                f"{recorded.run_id}: {key}: {name}: {missing} not have this model folder; runs that name it by an"
                " absolute path can be reproduced where that exists"
            )


def _run_dvc(folder: Path, *arguments: str) -> None:
    """Run DVC in the worktree without the project's variables; raises FrancaError with its exit code if it fails."""
    environment = {name: value for name, value in os.environ.items() if name not in ("DVC_ROOT", "DVC_EXP_NAME")}
    environment |= {
        "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}",
        "PYTHONPATH": str(folder),
        # The training's mirror would write its curves into the run that is being checked.
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
    }
    run_dvc(*arguments, folder=folder, env=environment, shown=True)
