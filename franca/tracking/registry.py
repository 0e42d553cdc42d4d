"""The model in MLflow: logged once, registered once for each weights digest, and read back."""

import contextlib
import io
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from franca.errors import FrancaError
from franca.evaluation.comparison import Evidence
from franca.evaluation.outcomes import FILE, read_outcomes
from franca.files import read_json
from franca.tracking.claim import claim
from franca.tracking.lineage import source_requirement

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Run
    from mlflow.entities.model_registry import ModelVersion

DIGEST = "franca.digest"
RUN = "franca.run"
CHAMPION = "champion"
CHALLENGER = "challenger"
EVALUATED = "results/evaluate"
_NEEDED = ("mlflow", "numpy", "pillow", "pydantic", "ruamel.yaml", "safetensors", "timm", "torch")


def find_version(client: "MlflowClient", name: str, digest: str) -> "ModelVersion | None":
    """The registered version of these weights, or None."""
    found = client.search_model_versions(f"name = '{name}' and tags.`{DIGEST}` = '{digest}'")
    return min(found, key=lambda version: int(version.version), default=None)


def version_with_alias(client: "MlflowClient", name: str, alias: str) -> "ModelVersion | None":
    from mlflow.exceptions import MlflowException

    try:
        return client.get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def ensure_version(client: "MlflowClient", name: str, run: "Run", folder: Path, digest: str) -> "ModelVersion":
    """The version of these weights, registered now if the server has none; its files are sent where it lacks them."""
    version = find_version(client, name, digest)
    logged = _logged_model(client, run.info.experiment_id, digest, version)
    if logged is None or not _has_files(client, logged):
        logged = _log_model(client, run, folder, digest, logged)
    if version is None:
        _ensure_registered_model(client, name)
        with claim(client, name):
            version = find_version(client, name, digest) or _register(logged, name, digest)
    client.set_model_version_tag(name, version.version, RUN, run.info.run_id)
    return version


def model_id(version: "ModelVersion") -> str:
    return version.model_id or str(version.source).removeprefix("models:/")


def evidence_of(client: "MlflowClient", version: "ModelVersion") -> Evidence | None:
    """Return what the newest run that measured this version holds; None if that run has no results.

    Runs of an older version have no `outcomes.npz`: then differences are as if measured on other images.
    """
    from mlflow.exceptions import MlflowException

    run_id = version.tags.get(RUN) or str(version.run_id)
    with tempfile.TemporaryDirectory() as place:
        try:
            results = read_json(Path(client.download_artifacts(run_id, f"{EVALUATED}/results.json", place)))
        except (MlflowException, OSError, ValueError):
            return None
        if not isinstance(results, dict) or "rows" not in results:
            return None
        try:
            path = Path(client.download_artifacts(run_id, f"{EVALUATED}/{FILE}", place))
            outcomes = read_outcomes(path, results.get("model_digest", ""))
        except (MlflowException, OSError):
            outcomes = {}
        return Evidence(results, outcomes)


@contextlib.contextmanager
def model_folder(address: str) -> Iterator[Path]:
    """The model folder behind a `models:/` address, downloaded for as long as the block lasts."""
    import mlflow

    with tempfile.TemporaryDirectory() as place:
        root = Path(mlflow.artifacts.download_artifacts(address, dst_path=place))
        if not (root / "MLmodel").is_file():
            raise FrancaError(f"{address}: its files are gone from the tracking server; `franca register` sends them")
        flavor = mlflow.models.Model.load(str(root)).flavors.get("python_function", {})
        if flavor.get("loader_module") != "franca.tracking.flavor":
            raise FrancaError(
                f"{address}: not a Franca model; name, or move the alias to, one that `franca register` made"
            )
        yield root / flavor["data"]


def run_model(client: "MlflowClient", run: "Run") -> str | None:
    """The `models:/` address of the weights that a run has trained, or None where it has none.

    A run whose weights were logged before, by another run, has no model of its own.
    """
    digest = run.data.tags.get(DIGEST)
    if digest is None:
        return None
    logged = _logged_model(client, run.info.experiment_id, digest, None)
    if logged is not None:
        return f"models:/{logged.model_id}"
    versions = client.search_model_versions(f"tags.`{DIGEST}` = '{digest}'")
    return next((f"models:/{version.name}/{version.version}" for version in versions), None)


def _logged_model(
    client: "MlflowClient", experiment: str, digest: str, version: "ModelVersion | None"
) -> "LoggedModel | None":
    from mlflow.exceptions import MlflowException

    if version is None:
        found = client.search_logged_models([experiment], f"tags.`{DIGEST}` = '{digest}'")
        return next(iter(found), None)
    try:
        return client.get_logged_model(model_id(version))
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise FrancaError(
            f"{version.name} version {version.version} has lost its logged model on the tracking server; "
            f"delete that version and register again"
        ) from None


def _has_files(client: "MlflowClient", logged: "LoggedModel") -> bool:
    from mlflow.exceptions import MlflowException

    try:
        return any(Path(file.path).name == "MLmodel" for file in client.list_logged_model_artifacts(logged.model_id))
    except (MlflowException, OSError):
        return False


def _log_model(
    client: "MlflowClient", run: "Run", folder: Path, digest: str, logged: "LoggedModel | None"
) -> "LoggedModel":
    """Send the model folder as a pyfunc: safetensors, JSON and YAML, with signature and example.

    `mlflow.pyfunc.log_model` would write the store's location into the artifact; saving by name keeps it out.
    """
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus
    from mlflow.models import Model, ModelSignature
    from mlflow.pyfunc import save_model
    from mlflow.types import Schema, TensorSpec

    about = read_json(folder / "config.json")
    side, width = about["image_size"], about["dim"]
    signature = ModelSignature(
        Schema([TensorSpec(np.dtype("uint8"), (-1, side, side, 3))]),
        Schema([TensorSpec(np.dtype("float32"), (-1, width))]),
    )
    ramp = np.linspace(0, 255, side, dtype=np.uint8)
    if logged is None:
        logged = client.create_logged_model(
            run.info.experiment_id,
            name=folder.name,
            source_run_id=run.info.run_id,
            tags={DIGEST: digest},
            params=run.data.params,
            model_type="vision-foundation-model",
        )
        client.log_outputs(run.info.run_id, [LoggedModelOutput(logged.model_id, step=0)])
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "model"
        save_model(
            str(path),
            mlflow_model=Model(folder.name, run.info.run_id, model_uuid=logged.model_id, model_id=logged.model_id),
            loader_module="franca.tracking.flavor",
            data_path=str(folder),
            signature=signature,
            input_example=np.broadcast_to(ramp[None, :, None, None], (1, side, side, 3)).copy(),
            pip_requirements=requirements(),
            metadata={"digest": digest, **about},
        )
        client.log_model_artifacts(logged.model_id, str(path))
    return client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)


def requirements() -> list[str]:
    """What loading needs, at the installed versions, without a build's local mark such as `+cpu`."""
    pinned = [f"{name}=={metadata.version(name).partition('+')[0]}" for name in _NEEDED]
    source = source_requirement()
    return [*pinned, source] if source else pinned


def _ensure_registered_model(client: "MlflowClient", name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name, description="Vision foundation models by the Franca method.")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _register(logged: "LoggedModel", name: str, digest: str) -> "ModelVersion":
    import mlflow

    with contextlib.redirect_stderr(io.StringIO()):  # MLflow says there that the name exists already, as it must
        return mlflow.register_model(f"models:/{logged.model_id}", name, tags={DIGEST: digest})
