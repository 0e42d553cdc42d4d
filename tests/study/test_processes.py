"""The cells of a study as plain processes, without DVC and Prefect."""

import shutil
from pathlib import Path

import pytest

from franca.errors import FrancaError
from franca.files import read_json
from franca.study import processes
from tests.small_study import ROOT, make_images, write_study


@pytest.mark.slow
def test_cells_run_side_by_side_and_a_failed_one_alone_runs_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    (tmp_path / "franca").symlink_to(ROOT / "franca")
    make_images(tmp_path / "data/images")
    rates = {"low": {"pretrain.optimizer.base_lr": 1e-4}, "high": {"pretrain.optimizer.base_lr": 1e38}}
    path = write_study(tmp_path, seeds=[0], axes={"rate": rates})
    command = [str(path), "--parallel", "2", "--folder", "cells"]
    with pytest.raises(FrancaError, match="1 of 2 cells failed; run again"):
        processes.main(command)
    assert "pretrain ended with exit code 2: franca: the loss is not finite" in capsys.readouterr().err
    (cell,) = read_json(tmp_path / "studies/results/rates.json")["cells"]
    assert cell["options"] == {"rate": "low"} and cell["run"]["device"] == "cpu"
    assert cell["scores"]["franca"]["knn"]["top1"] > 0
    assert "1 of 2 cells are finished" in (tmp_path / "docs/studies/rates.md").read_text()

    rates["high"]["pretrain.optimizer.base_lr"] = 1e-3
    processes.main([str(write_study(tmp_path, seeds=[0], axes={"rate": rates})), *command[1:]])
    first, second = read_json(tmp_path / "studies/results/rates.json")["cells"]
    assert (first["options"]["rate"], second["options"]["rate"]) == ("high", "low") and second == cell
