"""Send the curves in `results/pretrain/curves` to an MLflow run, on a machine that did not train the model.

They are outputs of DVC with about 200 points each, and exist in every clone after `dvc pull`. The run folder, with all
points and their times, is on the training's machine only.
"""

import csv
import time
from pathlib import Path
from typing import TYPE_CHECKING

from franca.paths import RESULTS

if TYPE_CHECKING:
    from mlflow import MlflowClient

CURVES = RESULTS / "pretrain/curves"
BATCH = 1000
"""MLflow's limit of metrics per request."""
_ONLINE = {"knn": "val/knn_top1", "rank": "val/effective_rank", "agreement": "val/view_agreement"}
"""Names of the metrics in the first column after `step`; further columns are those of baselines."""


def send_stored_curves(client: "MlflowClient", run_id: str) -> None:
    """Send the curves to a run that has none."""
    from mlflow.entities import Metric

    if not CURVES.is_dir() or client.get_metric_history(run_id, "train/loss"):
        return
    now = int(time.time() * 1000)
    points = [
        Metric(name, value, now, step)
        for path in sorted(CURVES.glob("*.csv"))
        for name, step, value in read_curve(path)
    ]
    for start in range(0, len(points), BATCH):
        client.log_batch(run_id, metrics=points[start : start + BATCH])


def read_curve(path: Path) -> list[tuple[str, int, float]]:
    """Return the points of a curve file: name of the metric in MLflow, step and value."""
    with path.open(encoding="utf-8", newline="") as file:
        return [
            (_metric(path.stem, column, position), int(row["step"]), float(value))
            for row in csv.DictReader(file)
            for position, (column, value) in enumerate(row.items())
            if column != "step" and value
        ]


def _metric(curve: str, column: str, position: int) -> str:
    if curve in _ONLINE:
        return _ONLINE[curve] if position == 1 else f"{_ONLINE[curve]}_{column}"
    if curve == "loss":
        return f"train/{column}"
    # teacher_entropy/dino/level12, in a column dino_level12
    return f"train/{curve}/{column.replace('_', '/', 1)}"
