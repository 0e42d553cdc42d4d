"""Submit a run of a deployment to the Prefect server: `python -m flows.submit DEPLOYMENT PARAMETERS_AS_JSON`.

`franca submit` calls this after it has checked the values, since the package `franca` works without Prefect.
"""

import json
import sys
from typing import Any

import httpx
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.settings import PREFECT_API_URL, PREFECT_UI_URL

from franca.errors import FrancaError


def submit(deployment: str, parameters: dict[str, Any]) -> str:
    """Create a flow run and return its name and address.

    Raises:
        FrancaError: No server answers, it has no such deployment, or it refuses the parameters.
    """
    address = PREFECT_API_URL.value()
    if not address:  # Prefect would start a temporary server, on which nothing would ever run
        raise FrancaError("PREFECT_API_URL: not set; export the address of a Prefect server's API")
    try:
        with get_client(sync_client=True) as client:
            found = client.read_deployment_by_name(deployment)
            run = client.create_flow_run_from_deployment(found.id, parameters=parameters)
    except ObjectNotFound:
        raise FrancaError(f"{address}: no deployment {deployment}; start a worker, which deploys the flows") from None
    except PrefectHTTPStatusError as error:
        detail = error.response.text
        if error.response.status_code == httpx.codes.CONFLICT:
            detail = error.response.json()["detail"]
        raise FrancaError(f"{address}: refused with status {error.response.status_code}: {detail}") from None
    except (httpx.TransportError, httpx.InvalidURL) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise FrancaError(f"{address}: no Prefect server answers: {reason}; check PREFECT_API_URL") from None
    pages = PREFECT_UI_URL.value() or address.removesuffix("/").removesuffix("/api")
    return f"{run.name}: {pages}/runs/flow-run/{run.id}"


if __name__ == "__main__":
    try:
        print(submit(sys.argv[1], json.loads(sys.argv[2])))
    except FrancaError as error:
        sys.exit(str(error))
