"""Log and register models in MLflow, once for each digest of weights, and read them back."""

import contextlib
import io
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from franca.errors import FrancaError
from franca.evaluation.comparison import Evidence
from franca.evaluation.outcomes import FILE, read_outcomes
from franca.files import read_json, sha256_file
from franca.tracking.lineage import source_requirement
from franca.tracking.model_lock import lock_model

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Run
    from mlflow.entities.model_registry import ModelVersion

DIGEST = "franca.digest"
"""Tag of runs, logged models and versions: SHA-256 of the weights."""
CONFIG_DIGEST = "franca.config_digest"
"""Tag of logged models and versions: SHA-256 of `config.json`."""
RUN = "franca.run"
"""Tag of a version: the newest run that measured it."""
CHAMPION = "champion"
CHALLENGER = "challenger"
PREVIOUS = "previous"
"""Alias of the version that `franca rollback` returns to."""
EVALUATE_ARTIFACTS = "results/evaluate"
DATASET_ARTIFACTS = "results/datasets"
_REQUIRED_PACKAGES = ("mlflow", "numpy", "pillow", "pydantic", "ruamel.yaml", "safetensors", "timm", "torch")


def find_version(client: "MlflowClient", name: str, digest: str) -> "ModelVersion | None":
    """Return the registered version of the weights with this digest, or None."""
    found = client.search_model_versions(f"name = '{name}' and tags.`{DIGEST}` = '{digest}'")
    return min(found, key=lambda version: int(version.version), default=None)


def version_with_alias(client: "MlflowClient", name: str, alias: str) -> "ModelVersion | None":
    """Return the version with this alias, or None."""
    return _or_none(client.get_model_version_by_alias, name, alias)


def version_number(version: "ModelVersion | None") -> str | None:
    """Return the number of a version as text; None if there is none."""
    return str(version.version) if version else None


def find_number(client: "MlflowClient", name: str, number: str) -> "ModelVersion | None":
    """Return the version with this number, or None."""
    return _or_none(client.get_model_version, name, number)


def _or_none(get: "Callable[[str, str], ModelVersion]", name: str, which: str) -> "ModelVersion | None":
    """Return the version that `get` finds; None if the server has no such version."""
    from mlflow.exceptions import MlflowException

    try:
        return get(name, which)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def run_of(version: "ModelVersion") -> str:
    """Return the ID of the newest run that measured a version."""
    return version.tags.get(RUN) or str(version.run_id)


def ensure_version(client: "MlflowClient", name: str, run: "Run", folder: Path, digest: str) -> "ModelVersion":
    """Return the version of these weights; register it and upload its files if the server does not have them.

    Args:
        client: The tracking server.
        name: Name of the registered model.
        run: The run that measured the model.
        folder: The model folder.
        digest: SHA-256 of its weights.
    """
    version = find_version(client, name, digest)
    logged = _logged_model(client, run.info.experiment_id, digest, version)
    if logged is None or not _has_files(client, logged):
        logged = _log_model(client, run, folder, digest, logged)
    if version is None:
        _ensure_registered_model(client, name)
        with lock_model(client, name):
            version = find_version(client, name, digest) or _register(logged, name, digest)
    client.set_model_version_tag(name, version.version, RUN, run.info.run_id)
    return version


def model_id(version: "ModelVersion") -> str:
    """Return the ID of the logged model behind a version."""
    return version.model_id or str(version.source).removeprefix("models:/")


def read_evidence(client: "MlflowClient", run_id: str) -> Evidence | None:
    """Return the results that a run has, those on further data sets included; None if it has none.

    Runs of early releases have no `outcomes.npz`. Differences to their models get unpaired intervals.
    """
    if (evidence := _read_evidence(client, run_id, EVALUATE_ARTIFACTS)) is None:
        return None
    folders = [item.path for item in client.list_artifacts(run_id, DATASET_ARTIFACTS) if item.is_dir]
    datasets = {folder.rpartition("/")[2]: _read_evidence(client, run_id, folder) for folder in folders}
    return replace(evidence, datasets={name: found for name, found in datasets.items() if found is not None})


def _read_evidence(client: "MlflowClient", run_id: str, artifacts: str) -> Evidence | None:
    """Return the results in a folder of a run's artifacts."""
    from mlflow.exceptions import MlflowException

    with tempfile.TemporaryDirectory() as temporary:
        try:
            results = read_json(Path(client.download_artifacts(run_id, f"{artifacts}/results.json", temporary)))
        except (MlflowException, OSError, ValueError):
            return None
        if not isinstance(results, dict) or "rows" not in results:
            return None
        try:
            path = Path(client.download_artifacts(run_id, f"{artifacts}/{FILE}", temporary))
            outcomes = read_outcomes(path, results.get("model_digest", ""))
        except (MlflowException, OSError):
            outcomes = {}
        return Evidence(results, outcomes)


@contextlib.contextmanager
def model_folder(client: "MlflowClient", address: str) -> Iterator[Path]:
    """Download the model at a `models:/` address to a temporary folder and yield the model folder in it.

    No code of the artifact runs: of `MLmodel` only the format and the folder's name are read.

    Raises:
        FrancaError: Its files are missing on the server or are not those that were registered, or it is not a Franca
            model.
    """
    import mlflow

    fixed, tags = _resolve(client, address)
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(mlflow.artifacts.download_artifacts(fixed, dst_path=temporary))
        if not (root / "MLmodel").is_file():
            raise FrancaError(
                f"{address}: its files are missing on the tracking server; run `franca register` to upload them"
            )
        about = mlflow.models.Model.load(str(root))
        flavor = about.flavors.get("python_function", {})
        if flavor.get("loader_module") != "franca.tracking.flavor":
            raise FrancaError(
                f"{address}: not a Franca model; use a version made by `franca register`, or move the alias to one"
            )
        folder = (root / flavor["data"]).resolve()
        if not folder.is_relative_to(root.resolve()):
            raise FrancaError(
                f"{address}: MLmodel names a folder outside of the model; restore the files on the server"
            )
        verify_files(folder, {DIGEST: (about.metadata or {}).get("digest"), **tags}, address)
        yield folder


def verify_files(folder: Path, tags: Mapping[str, str | None], origin: str) -> None:
    """Compare weights and configuration of a model folder with the digests in `tags`, as far as these have them.

    Raises:
        FrancaError: A file is not the one that was registered.
    """
    for tag, name in ((DIGEST, "model.safetensors"), (CONFIG_DIGEST, "config.json")):
        path, expected = folder / name, tags.get(tag)
        if expected and path.is_file() and sha256_file(path) != expected:
            raise FrancaError(
                f"{origin}: {name} is not the file that was registered (SHA-256 {expected[:12]}...); "
                "restore it on the artifact store, or register the model again under another name"
            )


def _resolve(client: "MlflowClient", address: str) -> tuple[str, dict[str, str]]:
    """Return an address that does not move, and the tags of the version or logged model that it names."""
    path = address.removeprefix("models:/")
    if "@" in path:
        version = client.get_model_version_by_alias(*path.split("@", 1))
    elif "/" in path:
        version = client.get_model_version(*path.split("/", 1))
    else:
        return address, client.get_logged_model(path).tags
    return f"models:/{version.name}/{version.version}", version.tags


def model_of_run(client: "MlflowClient", run: "Run") -> str | None:
    """Return the `models:/` address of the weights of a run; None if there is none.

    The weights may have been logged by an earlier run: each digest is logged once.
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
            f"{version.name} version {version.version}: its logged model is missing on the tracking server; "
            f"delete the version and run `franca register` again"
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
    """Upload the model folder as a python_function model: safetensors, JSON and YAML, with signature and example.

    `mlflow.pyfunc.log_model` would write the location of the artifact store into the uploaded files, so the model is
    saved to a temporary folder and uploaded from there.
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
            tags={DIGEST: digest, CONFIG_DIGEST: sha256_file(folder / "config.json")},
            params=run.data.params,
            model_type="vision-foundation-model",
        )
        client.log_outputs(run.info.run_id, [LoggedModelOutput(logged.model_id, step=0)])
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "model"
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
    """Return pip requirements for loading the model, pinned, without local version labels such as `+cpu`."""
    pinned = [f"{name}=={metadata.version(name).partition('+')[0]}" for name in _REQUIRED_PACKAGES]
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

    with contextlib.redirect_stderr(io.StringIO()):  # MLflow warns there that the name exists already
        known = {tag: logged.tags[tag] for tag in (DIGEST, CONFIG_DIGEST) if tag in logged.tags}
        return mlflow.register_model(f"models:/{logged.model_id}", name, tags={DIGEST: digest, **known})
