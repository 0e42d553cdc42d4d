"""What a finished run leaves for DVC: weights, curves and final numbers, all functions of the run alone."""

import csv
import io
from typing import Any

from franca.files import write_bytes, write_json
from franca.models import FrancaModel, save_model
from franca.paths import PRETRAINED, RESULTS
from franca.pretrain.run_folder import RunFolder

CURVES = RESULTS / "pretrain/curves"


def write_outputs(model: FrancaModel, folder: RunFolder, mark: str) -> None:
    """Write `models/pretrained`, `results/pretrain/curves/*.csv` and `results/pretrain/metrics.json`."""
    save_model(model, PRETRAINED)
    readings = [(line["step"], line["metrics"]) for line in folder.readings()]
    losses = ("loss", "dino", "ibot", "koleo")
    _write_csv("loss", ["step", *losses], [[step, *(m[f"train/{x}"] for x in losses)] for step, m in readings])
    accuracies = [[step, m["val/knn_top1"]] for step, m in readings if "val/knn_top1" in m]
    _write_csv("knn", ["step", "top1"], accuracies)
    last_step, last = readings[-1] if readings else (0, {})
    for name in ("teacher_entropy", "prototypes_used"):
        keys = [key for key in last if key.startswith(f"train/{name}/")]
        columns = [key.removeprefix(f"train/{name}/").replace("/", "_") for key in keys]
        _write_csv(name, ["step", *columns], [[step, *(m[key] for key in keys)] for step, m in readings])

    final: dict[str, Any] = {"steps": last_step}
    if last:
        final["loss"] = round(last["train/loss"], 4)
    if accuracies:
        final["knn_top1"] = round(accuracies[-1][1], 2)
    write_json(RESULTS / "pretrain/metrics.json", final | {"fingerprint": mark})


def _write_csv(name: str, header: list[str], rows: list[list[Any]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([[f"{value:.6g}" if isinstance(value, float) else value for value in row] for row in rows])
    write_bytes(CURVES / f"{name}.csv", text.getvalue().encode())
