"""Load models from the tracking server, by registered name or by run."""

import re

from franca.errors import FrancaError
from franca.models import FrancaModel, load_model
from franca.tracking.client import connect, redacted, server_errors, sqlite_file, tracking_uri
from franca.tracking.registry import model_folder, model_of_run

_ADDRESS = re.compile(r"models:/[^/@]+([/@][^/@]+)?|runs:/(?P<run>[^/]+)")
_NOT_FOUND = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")


def download(address: str) -> FrancaModel:
    """Return the model at `models:/NAME@ALIAS`, `models:/NAME/VERSION`, `models:/MODEL_ID` or `runs:/RUN_ID`.

    Raises:
        FrancaError: The server does not answer, has no such model, or the model was not made by Franca.
    """
    parts = _ADDRESS.fullmatch(address)
    if parts is None:
        raise FrancaError(f"{address}: not a model address; use models:/NAME@ALIAS, models:/NAME/VERSION or runs:/ID")
    file = sqlite_file()
    if file is not None and not file.is_file():
        raise FrancaError(
            f"{address}: no tracking database at {file}; set MLFLOW_TRACKING_URI or run in the project's folder"
        )
    client = connect()
    with server_errors():
        from mlflow.exceptions import MlflowException

        try:
            found = model_of_run(client, client.get_run(parts["run"])) if parts["run"] else address
            if found is None:
                raise FrancaError(f"{address}: this run has no model yet; run `franca register` to log it")
            with model_folder(client, found) as folder:
                return load_model(folder)
        except MlflowException as error:
            if error.error_code not in _NOT_FOUND:
                raise
            reason, server = error.message.rstrip("."), redacted(tracking_uri())
            raise FrancaError(
                f"{address}: {reason} (tracking server {server}); check the address or MLFLOW_TRACKING_URI"
            ) from None
