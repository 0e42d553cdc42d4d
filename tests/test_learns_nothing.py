"""A run that learns nothing goes through all real stages, ends without a champion and says why."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from franca.arguments import STAGES
from franca.files import read_json, write_json
from tests.conftest import MakeValues

NOTHING = {
    "pretrain.optimizer.base_lr": 0.0,
    "pretrain.optimizer.min_lr": 0.0,
    "pretrain.epochs": 1,
    "pretrain.losses.teacher_warmup_epochs": 0.5,
    "prepare.source": "photos",
    "prepare.dense_source": None,
    "prepare.duplicate_bits": 0,
    "prepare.val_fraction": 0.3,
    "prepare.test_fraction": 0.3,
    "evaluate.bootstrap_samples": 200,
    "disentangle.rounds": 1,
    "disentangle.epochs": 1,
}


def write_photos(folder: Path, classes: int) -> None:
    """Sixty small images of random blocks whose class is their tint, in a folder a class, or all in one folder."""
    rng = np.random.default_rng(0)
    for number in range(60):
        kind = number % 3
        # Unlike enough to be no near-duplicates of each other, which prepare would put into one split.
        pixels = np.kron(rng.uniform(0, 200, (8, 8, 3)), np.ones((4, 4, 1)))
        pixels[..., kind] += 50
        place = folder / f"class{kind % classes}" if classes > 1 else folder
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(place / f"{number}.png")


def franca(folder: Path, *arguments: str) -> str:
    # There is no server while the model trains: a mirror that ends early could leave a database half made.
    server = "http://127.0.0.1:9" if arguments == ("pretrain",) else ""
    environment = os.environ | {"DVC_ROOT": str(folder), "MLFLOW_TRACKING_URI": server}
    command = [sys.executable, "-m", "franca", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("classes", "metric"), [(3, "knn/val/top1"), (1, "views/val/top1")])
def test_no_champion_comes_of_a_learning_rate_of_zero(
    tmp_path: Path, tiny_values: MakeValues, classes: int, metric: str
) -> None:
    write_photos(tmp_path / "photos", classes)
    values: dict[str, Any] = tiny_values(NOTHING)
    write_json(tmp_path / "params.yaml", values)
    shown = {stage: franca(tmp_path, stage) for stage in STAGES}
    assert shown["pretrain"].count("the model is no better than its baselines") == 1

    receipt = read_json(tmp_path / "results/register/receipt.json")
    assert receipt["aliases"] == []
    reason, advice, *_ = receipt["decision"]
    assert reason.startswith("not shown to be better than the same ViT with random weights")
    assert metric in reason and reason.endswith("so it gets no alias")
    assert "pretrain.optimizer.base_lr is 0, so the learning rate never exceeds min_lr" in advice
    told = franca(tmp_path, "summary")
    assert reason in told and advice in told and "(no alias)" in told
    results = read_json(tmp_path / "results/evaluate/results.json")
    assert ("knn" in results["skipped"]) == (classes == 1)
    rank = [row for row in results["differences"] if row["benchmark"] == "rank"]
    assert {row["value"] for row in rank} == {0.0} and all(row["paired"] for row in rank)
