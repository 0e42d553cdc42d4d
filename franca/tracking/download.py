"""Models read back from the tracking server, by name or by run."""

import re

from franca.errors import FrancaError
from franca.models import FrancaModel, load_model
from franca.tracking.client import connect, database, redacted, server_faults, tracking_uri
from franca.tracking.registry import model_folder, run_model

_ADDRESS = re.compile(r"models:/[^/@]+([/@][^/@]+)?|runs:/(?P<run>[^/]+)")
_ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")


def download(address: str) -> FrancaModel:
    """The model at `models:/NAME@ALIAS`, `models:/NAME/VERSION`, `models:/MODEL_ID` or `runs:/RUN_ID`.

    Raises FrancaError where the server does not answer, knows no such model, or holds one of another kind.
    """
    parts = _ADDRESS.fullmatch(address)
    if parts is None:
        raise FrancaError(f"{address}: no address of a model; models:/NAME@ALIAS, models:/NAME/VERSION or runs:/ID is")
    file = database()
    if file is not None and not file.is_file():
        raise FrancaError(
            f"{address}: no tracking database at {file}; set MLFLOW_TRACKING_URI or go to the project's folder"
        )
    client = connect()
    with server_faults():
        from mlflow.exceptions import MlflowException

        try:
            found = run_model(client, client.get_run(parts["run"])) if parts["run"] else address
            if found is None:
                raise FrancaError(f"{address}: this run has no model yet; `franca register` logs it")
            with model_folder(found) as folder:
                return load_model(folder)
        except MlflowException as error:
            if error.error_code not in _ABSENT:
                raise
            reason, server = error.message.rstrip("."), redacted(tracking_uri())
            raise FrancaError(
                f"{address}: {reason} (tracking server {server}); check the address or MLFLOW_TRACKING_URI"
            ) from None
