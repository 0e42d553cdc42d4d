"""What a finished MLflow run has recorded of itself, downloaded to a folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from franca.errors import FrancaError
from franca.files import read_json
from franca.params import read_yaml

if TYPE_CHECKING:
    from mlflow import MlflowClient

COMMIT = "mlflow.source.git.commit"
REPOSITORY = "mlflow.source.git.repoURL"


@dataclass(frozen=True)
class RecordedRun:
    """A run that has gone through the whole pipeline.

    Attributes:
        run_id: ID in MLflow.
        commit: The commit of its code.
        repository: URL of the repository; None if it was not recorded.
        digest: SHA-256 of its weights.
        folder: Folder with the run's artifacts.
    """

    run_id: str
    commit: str
    repository: str | None
    digest: str
    folder: Path

    @property
    def patch(self) -> bytes:
        """What differed from the commit, for `git apply`."""
        path = self.folder / "lineage/code.diff"
        return path.read_bytes() if path.is_file() else b""

    @property
    def facts(self) -> dict[str, Any]:
        """The machine that it was trained on; empty if it was registered on another one."""
        path = self.folder / "lineage/run.json"
        return read_json(path) if path.is_file() else {}

    @property
    def packages(self) -> dict[str, str]:
        """Versions of the installed packages by name."""
        lines = (self.folder / "lineage/packages.txt").read_text(encoding="utf-8").split()
        return dict(line.split("==", 1) for line in lines if "==" in line)

    @property
    def stages(self) -> dict[str, Any]:
        """The stages of its dvc.lock."""
        path = self.folder / "lineage/dvc.lock"
        return dict(read_yaml(path)["stages"]) if path.is_file() else {}


def download_run(client: "MlflowClient", run_id: str, folder: Path) -> RecordedRun:
    """Download the artifacts of a run that a reproduction needs to `folder`.

    Raises:
        FrancaError: There is no such run, it is not finished, or its commit was not recorded.
    """
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        raise FrancaError(
            f"{run_id}: the tracking server has no such run; check the ID and MLFLOW_TRACKING_URI"
        ) from None
    tags = run.data.tags
    if "franca.digest" not in tags:
        raise FrancaError(f"{run_id}: it was never registered, so there is nothing to compare with; finish it first")
    if COMMIT not in tags:
        raise FrancaError(f"{run_id}: its commit was not recorded; only runs in a git checkout can be reproduced")
    for name in ("params.yaml", "lineage", "results"):
        try:
            client.download_artifacts(run_id, name, str(folder))
        except (MlflowException, OSError):
            raise FrancaError(f"{run_id}: its artifact {name} is missing on the tracking server") from None
    return RecordedRun(run_id, tags[COMMIT], tags.get(REPOSITORY), tags["franca.digest"], folder)
