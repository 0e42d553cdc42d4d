"""The `franca` command: exit codes, one line for each fault, rubbish as arguments, and a light start."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from franca import __version__
from franca.arguments import STAGES
from franca.cli import main
from franca.errors import FrancaError, Stopped
from tests.conftest import MakeValues


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_values: MakeValues) -> Path:
    """A project folder with a params.yaml that is the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    (tmp_path / "params.yaml").write_text(json.dumps(tiny_values()))
    return tmp_path


def stand_in(monkeypatch: pytest.MonkeyPatch, fault: BaseException | None) -> list[Any]:
    """Put a module that raises `fault` in place of the prepare stage; the list fills with its params."""
    calls: list[Any] = []

    def run(params: Any) -> None:
        calls.append(params)
        if fault:
            raise fault

    monkeypatch.setitem(sys.modules, STAGES["prepare"][0], SimpleNamespace(run=run))
    return calls


FAULTS = [
    (FrancaError("data: no such folder; run `dvc pull`"), 2, "franca: data: no such folder; run `dvc pull`"),
    (Stopped("stopped at step 3"), 75, "franca: stopped at step 3"),
    (
        OSError(errno.ENOSPC, "No space left on device", "models/x"),
        2,
        "franca: no space left on the device writing models/x; free space and run again",
    ),
    (
        OSError(errno.ENOSPC, "No space left on device"),
        2,
        "franca: no space left on the device; free space and run again",
    ),
    (
        FileNotFoundError(errno.ENOENT, "No such file or directory", "data/x"),
        2,
        "franca: data/x: No such file or directory",
    ),
    (PermissionError(errno.EACCES, "Permission denied", "models"), 2, "franca: models: Permission denied"),
    (FileNotFoundError("Failed to open local file 'x'"), 2, "franca: Failed to open local file 'x'"),
    (ValueError("two\n  lines"), 1, "franca: ValueError: two lines (franca --debug shows the traceback)"),
]


@pytest.mark.parametrize(("fault", "code", "line"), FAULTS, ids=[type(fault).__name__ for fault, _, _ in FAULTS])
def test_each_fault_is_one_line_and_a_code(
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    fault: BaseException,
    code: int,
    line: str,
) -> None:
    stand_in(monkeypatch, fault)
    assert main(["prepare"]) == code
    assert capsys.readouterr() == ("", line + "\n")
    assert main(["--debug", "prepare"]) == code
    debugged = capsys.readouterr().err
    assert debugged.startswith("Traceback (most recent call last):") and debugged.endswith(line + "\n")


def test_interrupt_from_the_keyboard(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, KeyboardInterrupt())
    assert main(["prepare"]) == 130


def test_a_stage_gets_its_params_and_is_noted(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = stand_in(monkeypatch, None)
    assert main(["prepare"]) == 0
    assert calls[0].base.image_size == 32
    stand_in(monkeypatch, FrancaError("no"))
    assert main(["prepare"]) == 2
    notes = [json.loads(line) for line in (project / "runs/stages.jsonl").read_text().splitlines()]
    assert [(note["stage"], note["status"]) for note in notes] == [("prepare", "done"), ("prepare", "failed")]
    assert all(note["started"] > 1e9 and note["seconds"] >= 0 for note in notes)


def test_a_mistake_in_the_params_stops_before_the_stage(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tiny_values: MakeValues
) -> None:
    calls = stand_in(monkeypatch, None)
    (project / "other.yaml").write_text(json.dumps(tiny_values({"base.sead": 1})))
    assert main(["--params", "other.yaml", "prepare"]) == 2
    assert capsys.readouterr().err == "franca: other.yaml: base.sead: unknown key (value 1); did you mean seed?\n"
    assert main(["--params", "nowhere.yaml", "prepare"]) == 2
    assert capsys.readouterr().err == (
        "franca: nowhere.yaml: no such file; `franca params use overhead-cpu` writes one\n"
    )
    assert not calls and not (project / "runs").exists()


def test_presets_are_listed_written_and_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["params", "list"]) == 0
    assert "overhead-cpu  " in capsys.readouterr().out
    assert main(["params", "check"]) == 2
    assert main(["params", "use", "photos-1gpu"]) == 0
    assert main(["params", "check"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "params.yaml: written from preset photos-1gpu",
        "params.yaml: valid",
    ]


def test_usage_mistakes_exit_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["train"], ["params", "use", "nowhere"], ["prepare", "--fast"]):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2
        assert "usage: franca" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0 and capsys.readouterr().out == f"{__version__}\n"


LIGHT = """
import contextlib, os, sys
from franca.cli import main
with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
    for arguments in (["params", "list"], ["params", "check"], ["--help"]):
        try:
            code = main(arguments)
        except SystemExit as end:
            code = end.code
        assert code == 0, arguments
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""


def test_help_and_params_need_nothing_heavy(project: Path) -> None:
    result = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, check=True)
    loaded = set(result.stdout.split())
    assert "pydantic" in loaded
    assert not loaded & {
        "torch",
        "timm",
        "torchvision",
        "numpy",
        "PIL",
        "mlflow",
        "prefect",
        "dvc",
        "matplotlib",
        "sklearn",
    }


def test_the_command_that_a_stage_is_run_by(project: Path) -> None:
    (project / "params.yaml").write_text("base: [")
    result = subprocess.run([sys.executable, "-m", "franca", "pretrain"], capture_output=True, text=True)
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr.startswith("franca: params.yaml line 1: not valid YAML: ") and result.stderr.count("\n") == 1


def test_summary_before_anything_was_run(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["summary"]) == 2
    assert capsys.readouterr().err == "franca: prepared/manifest.json: no such file; run `dvc repro` first\n"


@pytest.fixture
def rubbish(project: Path) -> Path:
    """A project folder with files and folders that are not what they should be."""
    for folder in ("empty", "broken", "deep", "photos"):
        (project / folder).mkdir()
    (project / "text").write_text("hello")
    (project / "zero").touch()
    (project / "loop").symlink_to("loop")
    for folder, content in (("broken", "{"), ("deep", "[" * 100_000)):
        (project / folder / "config.json").write_text(content)
        (project / folder / "model.safetensors").write_text("x")
    Image.new("RGB", (16, 16)).save(project / "photos/a.png")
    os.mkfifo(project / "fifo")
    return project


THINGS = ["none", "empty", "text", "zero", "loop", "x" * 5000, "", "text/below"]
RUBBISH = [
    *(["--params", thing, command] for thing in THINGS for command in ("prepare", "plan", "summary")),
    *(["--params", thing, "params", "use", "overhead-cpu"] for thing in ("empty", "text/below", "x" * 5000, "")),
    *(["embed", thing, "-o", "out.parquet"] for thing in THINGS),
    *(["maps", thing, "-o", "out"] for thing in ("", "empty")),
    *(["embed", "photos", "-o", "out.parquet", "--model", thing] for thing in (*THINGS, "broken", "deep")),
    *(["maps", "photos", "-o", "out", "--model", thing] for thing in (*THINGS, "broken", "deep")),
    *(["export", thing, "-o", "out", "--format", "safetensors"] for thing in (*THINGS, "broken", "deep")),
    *(["import-weights", thing, "-o", "out"] for thing in (*THINGS, "broken", "photos/a.png", "fifo")),
    *(["import-weights", "text", "-o", output] for output in ("text", "photos", "", "text/below")),
    *(["plan", "--gpus", number] for number in ("0", "-1", "x", "1e3")),
    *(["plan", "--gpu-memory", number] for number in ("0", "-1", "nan", "x")),
    ["embed", "photos", "-o", "out.parquet", "--model", "models:/"],
    ["embed", "photos", "-o", "out.parquet", "--device", "tpu"],
    ["embed", "photos", "-o", "out.parquet", "--batch-size", "0"],
    ["export", "models/franca", "-o", "out", "--format", "jpeg"],
    ["import-weights", "-o", "out"],
    ["import-weights", "--timm", "no_such_model", "-o", "out"],
    ["import-weights", "text", "-o", "out", "--mean", "1", "2"],
    ["disentangle"],
    ["evaluate"],
    ["register"],
    ["promote", "--aply"],
    ["weights", "now"],
]


@pytest.mark.parametrize("arguments", RUBBISH, ids=lambda arguments: " ".join(arguments)[:60])
def test_rubbish_is_one_line_and_code_2(
    rubbish: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_size for path in rubbish.rglob("*.*") if path.is_file()}
    try:
        code = main(arguments)
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
        usage, *_, line = capsys.readouterr().err.splitlines()
        assert usage.startswith("usage: franca") and "error: " in line
    assert code == 2
    assert {path: path.stat().st_size for path in before} == before
    assert not (rubbish / "out").exists() and not (rubbish / "out.parquet").exists()
