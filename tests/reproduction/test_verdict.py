"""The verdict on a repetition: what is the same, what comes first of what differs, and why."""

import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from franca.files import sha256_file, write_bytes, write_json
from franca.reproduction.verdict import compare, verdict_text
from franca.tracking.recorded_run import RecordedRun

FACTS = {"cpu_capability": "AVX2", "device": "cpu", "threads": 1, "precision": "fp32", "python": "3.11.7"}
STAGES = ("prepare", "pretrain", "evaluate")


def write_results(folder: Path, score: float = 70.0, picture: bytes = b"png") -> None:
    write_json(folder / "results/evaluate/results.json", {"rows": [score]})
    write_json(
        folder / "results/evaluate/metrics.json", {"knn": {"val": {"top1": score}}, "rank": {"val": {"rankme": 3}}}
    )
    write_bytes(folder / "results/evaluate/plots/masks.png", picture)
    write_bytes(folder / "results/evaluate/report.html", b"report")


def lock(**outs: str) -> dict[str, Any]:
    return {"stages": {name: {"outs": [{"path": name, "md5": outs.get(name, "0")}]} for name in STAGES}}


@pytest.fixture
def recorded(tmp_path: Path) -> RecordedRun:
    folder = tmp_path / "recorded"
    write_results(folder)
    write_bytes(folder / "weights", b"weights")
    write_json(folder / "lineage/run.json", FACTS)
    write_json(folder / "lineage/dvc.lock", lock())
    versions = "".join(f"{name}=={metadata.version(name)}\n" for name in ("torch", "torchvision", "timm", "numpy"))
    versions += "".join(
        f"{name}=={metadata.version(name)}\n" for name in ("pillow", "scipy", "scikit-learn", "matplotlib")
    )
    write_bytes(folder / "lineage/packages.txt", versions.encode())
    return RecordedRun("abc", "f" * 40, None, sha256_file(folder / "weights"), folder)


@pytest.fixture
def repeated(tmp_path: Path) -> Path:
    folder = tmp_path / "repeated"
    write_results(folder)
    write_bytes(folder / "models/franca/model.safetensors", b"weights")
    write_json(folder / "runs/pretrain-1/run.json", FACTS)
    write_json(folder / "dvc.lock", lock())
    write_json(folder / "dvc.yaml", {"stages": {name: {} for name in STAGES}})
    return folder


def test_the_same_bytes(recorded: RecordedRun, repeated: Path) -> None:
    verdict = compare(recorded, repeated)
    assert verdict.equal and verdict.pictures == {"plots/masks.png": True}
    assert (verdict.first_difference, verdict.metrics, verdict.reasons) == (None, {}, [])
    assert verdict_text(verdict).splitlines() == [
        "run abc, commit ffffffffff: reproduced",
        "  weights   same bytes",
        "  scores    same bytes",
        "  report    same bytes",
        "  pictures  same bytes",
    ]


def test_what_differs_is_named_with_the_first_stage_and_the_reasons(recorded: RecordedRun, repeated: Path) -> None:
    write_bytes(repeated / "models/franca/model.safetensors", b"other")
    write_results(repeated, 71.5, b"other png")
    write_json(repeated / "dvc.lock", lock(pretrain="1", evaluate="1"))
    write_json(repeated / "runs/pretrain-1/run.json", FACTS | {"cpu_capability": "AVX512", "threads": 4})
    text = (recorded.folder / "lineage/packages.txt").read_text()
    write_bytes(recorded.folder / "lineage/packages.txt", text.replace("timm==", "timm==0.").encode())
    verdict = compare(recorded, repeated)
    assert not (verdict.equal or verdict.weights or verdict.scores)
    assert verdict.first_difference == "pretrain"
    assert verdict.metrics == {"knn/val/top1": (70.0, 71.5)}
    timm = metadata.version("timm")
    assert verdict.reasons == [
        f"timm 0.{timm} then, {timm} now",
        "instruction set of the CPU: AVX2 then, AVX512 now",
        "threads: 1 then, 4 now",
    ]
    text = verdict_text(verdict)
    assert "DIFFERENT" in text and "different: plots/masks.png" in text and "70.0000     71.5000" in text


def test_a_picture_that_is_missing_is_a_difference(recorded: RecordedRun, repeated: Path) -> None:
    shutil.rmtree(repeated / "results/evaluate/plots")
    verdict = compare(recorded, repeated)
    assert not verdict.equal and verdict.weights and verdict.scores
    assert "machine and packages are the same" in verdict_text(verdict)


def test_another_report_alone_is_a_difference_of_evaluate(recorded: RecordedRun, repeated: Path) -> None:
    write_bytes(repeated / "results/evaluate/report.html", b"other")
    verdict = compare(recorded, repeated)
    assert not verdict.equal and verdict.weights and verdict.scores and not verdict.report
    assert verdict.first_difference == "evaluate" and "  report    different" in verdict_text(verdict)


def test_other_weights_without_other_hashes_are_a_difference_of_disentangle(
    recorded: RecordedRun, repeated: Path
) -> None:
    write_bytes(repeated / "models/franca/model.safetensors", b"other")
    assert compare(recorded, repeated).first_difference == "disentangle"
