"""Deploy the flows of prefect.yaml and the automations to the server at PREFECT_API_URL: `python -m flows.deploy`.

`prefect deploy` alone starts what was paused: it sets every deployment and schedule to active. This script deploys a
copy of prefect.yaml in which those that are paused on the server are paused, too. It also makes the server refuse
parameters that a flow does not have; Prefect accepts them, and the run crashes.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import ObjectNotFound
from ruamel.yaml import YAML

from flows.automations import deploy_automations
from franca.errors import FrancaError

SOURCE = Path("prefect.yaml")


def keep_paused(deployment: dict[str, Any], existing: DeploymentResponse) -> None:
    """Change an entry of prefect.yaml: it is paused if the deployment on the server is; so are its schedules.

    Args:
        deployment: The entry; changed in place.
        existing: The deployment on the server.
    """
    if existing.paused:
        deployment["paused"] = True
    stopped = {getattr(entry.schedule, "cron", None) for entry in existing.schedules if not entry.active}
    for schedule in deployment.get("schedules", []):
        if schedule.get("cron") in stopped:
            schedule["active"] = False


def full_name(deployment: dict[str, Any]) -> str:
    """Return the name of an entry of prefect.yaml on the server: FLOW/DEPLOYMENT."""
    return f"{deployment['entrypoint'].rpartition(':')[2].replace('_', '-')}/{deployment['name']}"


def refuse_unknown(client: SyncPrefectClient, name: str) -> None:
    """Make the server refuse parameters that are not in the deployment's schema."""
    found = client.read_deployment_by_name(name)
    schema = {**(found.parameter_openapi_schema or {}), "additionalProperties": False}
    changed = {"parameter_openapi_schema": schema}
    client.request("PATCH", "/deployments/{id}", path_params={"id": found.id}, json=changed)


def main() -> int:
    """Deploy and return the exit code of `prefect deploy`; 2 if an alert's address is none."""
    # Without anchors and merges, which this script could not change in one place only.
    content = json.loads(json.dumps(YAML(typ="safe").load(SOURCE)))
    with get_client(sync_client=True) as client:
        for deployment in content["deployments"]:
            try:
                keep_paused(deployment, client.read_deployment_by_name(full_name(deployment)))
            except ObjectNotFound:
                continue
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, SOURCE.name)
        copy.write_text(json.dumps(content), encoding="utf-8")
        command = ["prefect", "--no-prompt", "deploy", "--all", "--prefect-file", os.fspath(copy)]
        code = subprocess.run(command, check=False).returncode
    if code == 0:
        with get_client(sync_client=True) as client:
            for deployment in content["deployments"]:
                refuse_unknown(client, full_name(deployment))
            try:
                deploy_automations(client)
            except FrancaError as error:
                print(f"error: {error}", file=sys.stderr)
                return error.exit_code
    return code


if __name__ == "__main__":
    sys.exit(main())
