"""The command `python -m benchmarks.gpu_check`, and its quick groups on a CPU; .ci/run runs the others."""

import importlib
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.gpu_check import __main__ as gpu_check
from benchmarks.gpu_check import heads, syncs
from benchmarks.gpu_check.finding import Finding, at_most, left_out
from franca.files import read_json
from tests.forked import succeeds_without


def run_main(monkeypatch: pytest.MonkeyPatch, output: Path, found: dict[str, list[Finding]]) -> int:
    """Run the command with groups whose findings are `found`."""
    monkeypatch.setattr(gpu_check, "_outside", lambda group, folder: found[group])
    monkeypatch.setattr(sys, "argv", ["gpu_check", *found, "--output", str(output)])
    return gpu_check.main()


def test_one_failed_check_fails_the_whole(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {"heads": [at_most("close", 1e-6, 1e-4), left_out("rest", "no GPU")], "parity": [Finding("rate", "9 ms")]}
    assert run_main(monkeypatch, tmp_path, found) == 0
    assert [row["verdict"] for row in read_json(tmp_path / "results.json")] == ["pass", "left out", "measured"]
    found["syncs"] = [at_most("far", float("nan"), 1e-4)]
    assert run_main(monkeypatch, tmp_path, found) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "| syncs | far | nan | <= 0.0001 | FAIL |"


def test_all_groups_import_without_what_a_gpu_machine_lacks() -> None:
    lacking = ("dvc", "mlflow", "prefect", "imagecodecs", "pillow_heif", "faiss", "onnx", "lightly", "cv2")

    def import_all() -> None:
        for group in gpu_check.GROUPS:
            importlib.import_module(f"benchmarks.gpu_check.{group}")
        importlib.import_module("franca.stages.pretrain")

    assert succeeds_without(lacking, import_all)
    assert not succeeds_without(["timm"], import_all)


def test_quick_groups_run_on_a_cpu() -> None:
    device = torch.device("cpu")
    assert {finding.verdict for finding in heads.run(device)} == {"pass", "measured"}
    assert [finding.verdict for finding in syncs.run(device)] == ["left out"]


def test_a_wrong_loss_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads.sinkhorn, "_on_cpu", lambda logits, iterations: _one_iteration(logits))
    assert "FAIL" in {finding.verdict for finding in heads.run(torch.device("cpu"))}


def _one_iteration(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    prototype = logits.logsumexp(dim=0)
    sample = (logits - prototype).logsumexp(dim=1)
    logits.sub_(prototype).sub_(sample[:, None]).exp_()
    return sample, prototype
