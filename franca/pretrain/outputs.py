"""Outputs of a finished run: weights, curves and final metrics. They contain no time, host or run ID."""

import csv
import io
from typing import Any

from franca.files import write_bytes, write_json
from franca.models import FrancaModel, save_model
from franca.paths import PRETRAINED, RESULTS
from franca.pretrain.objective import OPTIONAL_TERMS, TERMS
from franca.pretrain.online import AGREEMENT, EFFECTIVE_RANK, KNN, PIXELS, RANDOM
from franca.pretrain.run_folder import RunFolder

CURVES = RESULTS / "pretrain/curves"
POINTS = 200
"""Approximate number of points of a curve."""
FINAL_POINTS = 10
"""Number of points that the final loss is a mean of."""


def curve_steps(total: int) -> int:
    """Return the number of steps between two points of the curves, for about 200 points a run.

    It does not depend on `runtime`, because the curves are outputs.
    """
    return max(total // POINTS, 1)


def write_outputs(model: FrancaModel, folder: RunFolder, mark: str) -> None:
    """Write `models/pretrained`, `results/pretrain/curves/*.csv` and `results/pretrain/metrics.json`.

    Args:
        model: The trained teacher.
        folder: The run's folder, whose readings become the curves.
        mark: The run's fingerprint.
    """
    save_model(model, PRETRAINED)
    lines = [(line["step"], line["metrics"]) for line in folder.readings()]
    readings = [(step, metrics) for step, metrics in lines if "train/loss" in metrics]
    losses = ["loss", *TERMS, *(name for name in OPTIONAL_TERMS if readings and f"train/{name}" in readings[0][1])]
    _write_csv("loss", ["step", *losses], [[step, *(m[f"train/{x}"] for x in losses)] for step, m in readings])
    for name, column, key in (
        ("knn", "top1", KNN),
        ("rank", "rank", EFFECTIVE_RANK),
        ("agreement", "top1", AGREEMENT),
    ):
        endings = ("", RANDOM) if key == EFFECTIVE_RANK else ("", RANDOM, PIXELS)
        header = ["step", column, *(ending.removeprefix("_") for ending in endings[1:])]
        rows = [[step, *(m.get(key + ending, "") for ending in endings)] for step, m in lines if key in m]
        _write_csv(name, header, rows)
    last_step, last = readings[-1] if readings else (0, {})
    for name in ("teacher_entropy", "prototypes_used"):
        keys = [key for key in last if key.startswith(f"train/{name}/")]
        columns = [key.removeprefix(f"train/{name}/").replace("/", "_") for key in keys]
        _write_csv(name, ["step", *columns], [[step, *(m[key] for key in keys)] for step, m in readings])

    final: dict[str, Any] = {"steps": last_step}
    if readings:
        final["loss"] = round(final_loss([(step, m["train/loss"]) for step, m in readings]), 4)
    online = [m for _, m in lines if EFFECTIVE_RANK in m]
    for name, key in (("knn_top1", KNN), ("effective_rank", EFFECTIVE_RANK), ("view_agreement", AGREEMENT)):
        for ending in ("", RANDOM, PIXELS):
            if online and key + ending in online[-1]:
                final[name + ending] = round(online[-1][key + ending], 2)
    write_json(RESULTS / "pretrain/metrics.json", final | {"fingerprint": mark})


def final_loss(points: list[tuple[int, float]]) -> float:
    """Return the mean loss over the steps of the last `FINAL_POINTS` points.

    Args:
        points: (step, mean loss since the previous point), in order.
    """
    starts = [0, *(step for step, _ in points)]
    last = list(zip(starts, points, strict=False))[-FINAL_POINTS:]
    return sum((step - start) * loss for start, (step, loss) in last) / sum(step - start for start, (step, _) in last)


def _write_csv(name: str, header: list[str], rows: list[list[Any]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([[f"{value:.6g}" if isinstance(value, float) else value for value in row] for row in rows])
    write_bytes(CURVES / f"{name}.csv", text.getvalue().encode())
