"""Repetition of a recorded run as a Prefect flow: it completes if the results are the same bytes."""

import json
import sys
import tempfile
from pathlib import Path

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.states import Completed, Failed, State

from flows.commands import run
from franca.errors import FrancaError, NotReproduced


@flow
def reproduce(run_id: str) -> State[None]:
    """Run a registered run again, from its commit and its data, and compare weights, scores, report and pictures.

    Args:
        run_id: ID of the run in MLflow.
    """
    with tempfile.TemporaryDirectory() as folder:
        verdict = Path(folder, "verdict.json")
        command = [sys.executable, "-m", "franca", "reproduce", run_id, "--output", str(verdict)]
        code, lines = run(command, Path.cwd(), get_run_logger().info)
        if code not in (0, NotReproduced.exit_code):
            raise FrancaError(lines[-1] if lines else f"franca reproduce ended with exit code {code}")
        create_markdown_artifact(key="reproduction", markdown=page(json.loads(verdict.read_text(encoding="utf-8"))))
    if code:
        return Failed(name="Different", message=lines[-1])
    return Completed(message="weights, scores, report and pictures are the same bytes")


def page(verdict: dict[str, object]) -> str:
    """Return a verdict as a Markdown page."""
    return f"```json\n{json.dumps(verdict, indent=2)}\n```"
