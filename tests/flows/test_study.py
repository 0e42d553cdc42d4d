"""Studies: which cells run, what a failed or killed one leaves, and one whole study through DVC."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prefect.logging import disable_run_logger

from flows import study as flow
from franca.errors import FrancaError
from franca.files import read_json
from franca.params import Params
from tests.small_study import ROOT, TINY, make_images, write_study

Runs = Callable[..., list[int]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    """Runs a study whose cells do nothing, in an empty project, and returns the seeds of those that ran.

    `broken` are seeds whose cells fail; `killed` is one whose cell takes the study's process with it.
    """
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    (tmp_path / "franca").symlink_to(ROOT / "franca")
    ran: list[int] = []

    def run(path: Path, broken: tuple[int, ...] = (), killed: int | None = None) -> list[int]:
        ran.clear()

        def cell(name: str, params: Params) -> dict[str, Any]:
            seed = params.base.seed
            ran.append(seed)
            if seed in broken:
                raise FrancaError("stage pretrain: no space left")
            if seed == killed:
                raise KeyboardInterrupt
            scores = {"franca": {"knn_levels": {"top1_4": 50.0 + seed}}}
            return {"steps": 1, "loss": 1.0, "run": {}, "model_digest": "m", "scores": scores}

        monkeypatch.setattr(flow, "run_cell", cell)
        try:
            with disable_run_logger():
                flow.run_study.fn(path, {}, {})
        except (FrancaError, KeyboardInterrupt):
            if not (broken or killed is not None):
                raise
        return list(ran)

    return run


def test_finished_cells_are_skipped_whatever_else_the_file_says(run: Runs, tmp_path: Path) -> None:
    assert run(write_study(tmp_path)) == [0, 1]
    assert "2 of 2 cells are finished" in (tmp_path / "docs/studies/rates.md").read_text()
    assert run(write_study(tmp_path)) == []
    assert run(write_study(tmp_path, seeds=[2, 1, 0], title="Another", description="More.")) == [2]
    assert run(write_study(tmp_path, params={**TINY, "pretrain.epochs": 2})) == [0, 1]


def test_a_killed_study_goes_on_where_it_was(run: Runs, tmp_path: Path) -> None:
    path = write_study(tmp_path, seeds=[0, 1, 2])
    assert run(path, killed=1) == [0, 1]
    assert "1 of 3 cells are finished" in (tmp_path / "docs/studies/rates.md").read_text()
    assert run(path) == [1, 2]


def test_failed_cells_are_named_at_the_end_and_run_again(run: Runs, tmp_path: Path) -> None:
    path = write_study(tmp_path, seeds=[0, 1, 2])
    assert run(path, broken=(0, 1)) == [0, 1, 2]
    with disable_run_logger(), pytest.raises(FrancaError) as failed:
        flow.run_study.fn(path, {}, {})
    first, *lines = str(failed.value).splitlines()
    assert first == "2 of 3 cells failed; run again to try them"
    assert [line.partition("-seed")[2][0] for line in lines] == ["0", "1"]
    assert all(line.endswith(": stage pretrain: no space left") for line in lines)
    assert run(path) == [0, 1]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["studies/none.yaml"], "studies/none.yaml: no such file"),
        (["studies/rates.yaml", "--set", "photos"], "--set photos: not of the form NAME=VALUE"),
        (["studies/rates.yaml", "--set", "photos=/no/such"], "--set photos=/no/such: no such folder"),
        (["studies/rates.yaml", "--only", "rate=high"], "no option high of rate; known here: low"),
        (["studies/rates.yaml", "--report-only"], "rates.json: no results of these cells; run the study"),
    ],
)
def test_wrong_arguments_end_before_anything_runs(
    arguments: list[str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_study(tmp_path)
    with pytest.raises(FrancaError) as refused:
        flow.main(arguments)
    assert expected in str(refused.value) and "\n" not in str(refused.value)


@pytest.fixture
def whole_project(tmp_path: Path) -> Path:
    """A project with this one's code and a few images, committed."""
    folder = tmp_path / "project"
    folder.mkdir()
    for name in ("franca", "flows"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", "params.yaml", "pyproject.toml", ".gitignore"):
        shutil.copy(ROOT / name, folder / name)
    make_images(folder / "data/images")
    dvc = f"{sys.executable} -m dvc"
    commit = "git -c user.name=tests -c user.email=tests@localhost commit -qm start"
    setup = f"git init -q && {dvc} init -q && {dvc} add -q data && git add -A && {commit}"
    subprocess.run(setup, shell=True, cwd=folder, check=True)
    return folder


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_whole_study_survives_sigkill(whole_project: Path, tmp_path: Path) -> None:
    """Killed after its first cell: the second command runs the second alone and writes the page."""
    project, log = whole_project, tmp_path / "log"
    command = [sys.executable, "-m", "flows.study", str(write_study(project).relative_to(project))]
    environment = {**os.environ, "PYTHONPATH": str(project), "PREFECT_HOME": str(tmp_path / "prefect")}
    results = project / "studies/results/rates.json"

    def start() -> "subprocess.Popen[bytes]":
        with log.open("wb") as file:
            return subprocess.Popen(
                command, cwd=project, env=environment, stdout=file, stderr=file, start_new_session=True
            )

    process = start()
    try:
        while not results.exists():
            assert process.poll() is None, log.read_text()
            time.sleep(0.5)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    (first,) = read_json(results)["cells"]

    process = start()
    try:
        assert process.wait(1200) == 0, log.read_text()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert f"{first['name']}: finished before" in log.read_text()
    cells = read_json(results)["cells"]
    assert cells[0] == first and [cell["seed"] for cell in cells] == [0, 1]
    assert first["run"]["head_parameters"] > 0 and first["run"]["step_ms"] > 0
    page = (project / "docs/studies/rates.md").read_text()
    assert "2 of 2 cells are finished" in page and "| low | 2 |" in page
    saved = subprocess.run(
        ["git", "for-each-ref", "--format=%(refname)", "refs/exps"], cwd=project, check=True, capture_output=True
    ).stdout.decode()
    assert all(cell["name"] in saved for cell in cells)
    assert not (project / "results").exists() and str(tmp_path) not in results.read_text() + page
