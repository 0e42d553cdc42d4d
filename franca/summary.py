"""The summary of the last run: what was trained, how good it is, where it is registered, how long it took."""

import os
from pathlib import Path
from typing import Any

from franca.errors import FrancaError
from franca.evaluation import report, verdicts
from franca.evaluation.comparison import Evidence
from franca.evaluation.outcomes import FILE, read_outcomes
from franca.files import read_json
from franca.params import Params
from franca.paths import MODEL, PREPARED, RESULTS, runs_root
from franca.tracking.client import redacted
from franca.tracking.lineage import stage_seconds
from franca.tracking.receipt import receipt_text
from franca.tracking.run_content import STAGES


def run(params: Params) -> None:
    """Print the summary of the last `dvc repro`.

    Raises:
        FrancaError: A file is missing, that is, a stage has not run.
    """
    try:
        print("\n".join(lines(params)))
    except FileNotFoundError as error:
        raise FrancaError(f"{error.filename}: no such file; run `dvc repro` first") from None


def lines(params: Params) -> list[str]:
    """Return the lines of the summary."""
    manifest, results = read_json(PREPARED / "manifest.json"), read_json(RESULTS / "evaluate/results.json")
    pretrain, receipt = read_json(RESULTS / "pretrain/metrics.json"), read_json(RESULTS / "register/receipt.json")
    config = read_json(MODEL / "config.json")
    about = config["architecture"]
    if not isinstance(about, str):
        about = f"ViT {about['embed_dim']} wide, {about['depth']} blocks, patch {about['patch_size']}"
    origin = f"the model of {params.pretrain.init} as it is"
    if pretrain["steps"]:
        origin = (
            f"pretrained without labels on {manifest['counts']['train']['images']:,} images of"
            f" {params.prepare.source} for {pretrain['steps']:,} steps of {params.pretrain.batch_size}"
        )
    return [
        "",
        f"Franca  {about}, {config['image_size']} px, in {MODEL}; {origin}",
        "",
        *report.table(results, "test"),
        "",
        *_differences(results),
        *report.skipped(results),
        "",
        *verdicts.text(Evidence(results, read_outcomes(RESULTS / "evaluate" / FILE, results["model_digest"]))),
        "",
        f"Registered as {receipt_text(receipt)}",
        "",
        _durations(),
        "",
        "Look at it:",
        *_commands(),
        "",
    ]


def _differences(results: dict[str, Any]) -> list[str]:
    lines = report.difference_table(results, "test")
    return lines if len(lines) > 1 else []


def _durations() -> str:
    """Return the duration of the latest finished run of each stage."""
    seconds = stage_seconds(runs_root() / "stages.jsonl")
    parts = [f"{stage} {_duration(seconds[stage])}" for stage in (*STAGES, "register") if stage in seconds]
    return "Time: " + ", ".join(parts) if parts else "Time: not recorded"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _commands() -> list[str]:
    mlflow = redacted(os.environ.get("MLFLOW_TRACKING_URI", ""))
    pictures = Path(RESULTS / "evaluate/plots")
    return [
        f"  pictures      {pictures}/",
        f"  MLflow        {mlflow}" if mlflow else "  MLflow        make mlflow-ui",
        "  Prefect       make prefect-ui",
        "  next          franca params list; dvc exp run -S pretrain.epochs=2; franca promote",
    ]
