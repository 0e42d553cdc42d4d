"""A drift check of new images as a Prefect flow; if wanted, drift starts a training run."""

import json
import sys
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.deployments import run_deployment
from prefect.runtime import flow_run
from prefect.states import Completed, State

from flows.commands import run
from flows.watch import PIPELINE
from franca.errors import DriftFound, FrancaError
from franca.events import DRIFT_FOUND, send_event
from franca.params import load_params
from franca.paths import MODEL, PARAMS, runs_root


@flow
def drift(folder: str, model: str = str(MODEL), alpha: float = 0.01, retrain: bool = False) -> State[None]:
    """Compare the images of a folder with the training images; drift sends the event `franca.drift.found`.

    Args:
        folder: The new images.
        model: Model whose embeddings are compared: a folder, or for example models:/franca@champion.
        alpha: Rate of false alarms that is accepted.
        retrain: Start the pipeline if there is drift.
    """
    logger = get_run_logger()
    output = runs_root() / "drift" / str(flow_run.name)
    command = [sys.executable, "-m", "franca", "drift", folder, "--model", model, "--alpha", str(alpha)]
    code, lines = run([*command, "--output", str(output)], Path.cwd(), logger.info)
    if code not in (0, DriftFound.exit_code):
        raise FrancaError(lines[-1] if lines else f"franca drift ended with exit code {code}")
    result = json.loads((output / "drift.json").read_text(encoding="utf-8"))
    create_markdown_artifact(key="drift", markdown=page(result, output / "drift.html"))
    if not result["drift"]:
        return Completed(name="NoDrift", message=f"{folder} looks like the training images")
    text = lines[-1].removeprefix("franca: ")
    name = load_params(PARAMS).register_.model_name
    if fault := send_event(DRIFT_FOUND, name, text, result | {"refused": len(result["refused"])}):
        logger.warning("no event was sent: %s", fault)
    if retrain:
        run_deployment(PIPELINE, timeout=0, as_subflow=False)
    return Completed(name="DriftFound", message=text)


def page(result: dict[str, Any], path: Path) -> str:
    """Return a result as Markdown."""
    usual = f"{100 * result['out_of_distribution']['expected']:g} %"
    mmd, domain, novel = (result[name] for name in ("mmd", "domain_classifier", "out_of_distribution"))
    verdict = "Drift" if result["drift"] else "No drift"
    return "\n".join(
        [
            f"**{verdict}** in {result['new_images']} images of `{result['folder']}`",
            "",
            "| Test | Value | Without drift | p |",
            "| --- | --- | --- | --- |",
            f"| squared distance (MMD) | {mmd['value']:.4f} | {mmd['chance']:.4f} | {mmd['p']:.3g} |",
            f"| domain classifier | {100 * domain['accuracy']:.1f} % | 50 % | {domain['p']:.3g} |",
            f"| out of distribution | {100 * novel['share']:.1f} % | {usual} | {novel['p']:.3g} |",
            "",
            f"With pictures: `{path}`",
        ]
    )
