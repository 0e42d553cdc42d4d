"""Load models and results of evaluations from the tracking server, by registered name or by run."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from franca.errors import FrancaError
from franca.evaluation.comparison import Evidence
from franca.models import FrancaModel, load_model
from franca.tracking.client import connect, redacted, server_errors, sqlite_file, tracking_uri
from franca.tracking.registry import model_folder, model_of_run, read_evidence, run_of

if TYPE_CHECKING:
    from mlflow import MlflowClient

_ADDRESS = re.compile(r"models:/[^/@]+([/@][^/@]+)?|runs:/(?P<run>[^/]+)")
_VERSION = re.compile(r"models:/(?P<name>[^/@]+)(@(?P<alias>[^/@]+)|/(?P<number>\d+))|runs:/(?P<run>[^/]+)")
_NOT_FOUND = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")


def download(address: str) -> FrancaModel:
    """Return the model at `models:/NAME@ALIAS`, `models:/NAME/VERSION`, `models:/MODEL_ID` or `runs:/RUN_ID`.

    Raises:
        FrancaError: The server does not answer, has no such model, or the model was not made by Franca.
    """
    parts = _ADDRESS.fullmatch(address)
    if parts is None:
        raise FrancaError(f"{address}: not a model address; use models:/NAME@ALIAS, models:/NAME/VERSION or runs:/ID")
    with _server(address) as client:
        found = model_of_run(client, client.get_run(parts["run"])) if parts["run"] else address
        if found is None:
            raise FrancaError(f"{address}: this run has no model yet; run `franca register` to log it")
        with model_folder(client, found) as folder:
            return load_model(folder)


def version_of(address: str) -> str:
    """Return the number of the version at `models:/NAME@ALIAS` or `models:/NAME/NUMBER`; empty for other addresses.

    Raises:
        FrancaError: The server does not answer, or has no such model or alias.
    """
    parts = _VERSION.fullmatch(address)
    if parts is None or not parts["alias"]:
        return str(parts["number"] or "") if parts else ""
    with _server(address) as client:
        return str(client.get_model_version_by_alias(parts["name"], parts["alias"]).version)


def download_evidence(address: str) -> Evidence:
    """Return the results of the newest run that measured a version, or those of a run.

    Args:
        address: `models:/NAME@ALIAS`, `models:/NAME/VERSION` or `runs:/RUN_ID`.

    Raises:
        FrancaError: The server does not answer, or has no such version or no results of it.
    """
    parts = _VERSION.fullmatch(address)
    if parts is None:
        raise FrancaError(f"{address}: not a version; use models:/NAME@ALIAS, models:/NAME/VERSION or runs:/ID")
    with _server(address) as client:
        if parts["alias"]:
            run_id = run_of(client.get_model_version_by_alias(parts["name"], parts["alias"]))
        elif parts["number"]:
            run_id = run_of(client.get_model_version(parts["name"], parts["number"]))
        else:
            run_id = client.get_run(parts["run"]).info.run_id
        evidence = read_evidence(client, run_id)
    if evidence is None:
        raise FrancaError(
            f"{address}: its run {run_id} has no results; measure it with `franca evaluate --model {address} --output"
            " FOLDER`"
        )
    return evidence


@contextmanager
def _server(address: str) -> Iterator["MlflowClient"]:
    """Yield the client; what the server does not have becomes an error in one line about `address`."""
    file = sqlite_file()
    if file is not None and not file.is_file():
        raise FrancaError(
            f"{address}: no tracking database at {file}; set MLFLOW_TRACKING_URI or run in the project's folder"
        )
    client = connect()
    with server_errors():
        from mlflow.exceptions import MlflowException

        try:
            yield client
        except MlflowException as error:
            if error.error_code not in _NOT_FOUND:
                raise
            reason, server = error.message.rstrip("."), redacted(tracking_uri())
            raise FrancaError(
                f"{address}: {reason} (tracking server {server}); check the address or MLFLOW_TRACKING_URI"
            ) from None
