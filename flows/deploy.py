"""Deploy the flows of prefect.yaml to the server at PREFECT_API_URL: `python flows/deploy.py`.

`prefect deploy` alone starts what was paused: it sets every deployment and schedule to active. This script deploys a
copy of prefect.yaml in which those that are paused on the server are paused, too.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from prefect.client.orchestration import get_client
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import ObjectNotFound
from ruamel.yaml import YAML

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


def main() -> int:
    """Deploy and return the exit code of `prefect deploy`."""
    # Without anchors and merges, which this script could not change in one place only.
    content = json.loads(json.dumps(YAML(typ="safe").load(SOURCE)))
    with get_client(sync_client=True) as client:
        for deployment in content["deployments"]:
            flow = deployment["entrypoint"].rpartition(":")[2].replace("_", "-")
            try:
                keep_paused(deployment, client.read_deployment_by_name(f"{flow}/{deployment['name']}"))
            except ObjectNotFound:
                continue
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, SOURCE.name)
        copy.write_text(json.dumps(content), encoding="utf-8")
        command = ["prefect", "--no-prompt", "deploy", "--all", "--prefect-file", os.fspath(copy)]
        return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
