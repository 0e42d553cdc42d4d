"""Promotion as a Prefect flow: a dry run unless `apply` is set."""

import sys
from pathlib import Path

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact

from flows.commands import run
from franca.errors import FrancaError


@flow
def promote(apply: bool = False) -> None:
    """Check the challenger's gates in params.yaml; with `apply`, make it champion if all of them pass."""
    command = [sys.executable, "-m", "franca", "promote", *(["--apply"] if apply else [])]
    code, lines = run(command, Path.cwd(), get_run_logger().info)
    if code:
        raise FrancaError(lines[-1] if lines else f"franca promote ended with exit code {code}")
    create_markdown_artifact(key="promotion", markdown="\n".join(["```", *lines, "```"]))
