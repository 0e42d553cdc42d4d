"""The `franca submit` command: check changed values and start the pipeline with them on the Prefect server."""

import json
import subprocess
import sys
from collections.abc import Sequence

from franca import presets
from franca.errors import FrancaError
from franca.paths import PARAMS

DEPLOYMENT = "quick/quick"


def run(preset: str | None, changes: Sequence[str]) -> None:
    """Submit a run and print its name and address.

    The worker applies the changes to its own params.yaml when the run starts, and checks them again.

    Args:
        preset: Preset that the values are changed in; None for params.yaml.
        changes: Texts NAME=VALUE.

    Raises:
        FrancaError: A name is unknown, a value is invalid, or the server cannot be reached. Nothing was submitted.
    """
    presets.changed(preset, changes)
    parameters = {"preset": preset or str(PARAMS), "values": list(changes)}
    command = [sys.executable, "-m", "flows.submit", DEPLOYMENT, json.dumps(parameters)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise FrancaError(result.stderr.strip().rpartition("\n")[2])
    print(result.stdout.strip())
