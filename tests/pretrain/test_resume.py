"""Whatever happens to a run, the weights it leaves in the end are the same, byte for byte."""

import io
import os
import random
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from franca.data.ingest.prepare import prepare
from franca.files import read_json
from tests.conftest import MakeParams, write_tar
from tests.pretrain.conftest import STEPS, MakeProject, Project, wait_for

CURVES = ("loss", "knn", "rank", "agreement", "teacher_entropy", "prototypes_used")


@pytest.fixture
def step() -> int:
    """Some step of the first third of a run: there is time to disturb it before it ends."""
    return random.randint(3, STEPS // 3)


def test_what_a_finished_run_leaves(reference: Project) -> None:
    assert set(reference.outs()) == {
        "models/pretrained/config.json",
        "models/pretrained/model.safetensors",
        *(f"results/pretrain/curves/{name}.csv" for name in CURVES),
        "results/pretrain/metrics.json",
    }
    assert reference.steps() == list(range(1, STEPS + 1))
    assert [path.name.split("-")[1] for path in reference.checkpoints()] == [f"{STEPS - 2:08d}", f"{STEPS:08d}"]
    assert (reference.run_folder / "finished").is_file()


def test_after_sigkill(reference: Project, make_project: MakeProject, step: int) -> None:
    project = make_project()
    run = project.start()
    run.reach(step)
    wait_for(project.checkpoints)  # which is written beside the steps
    os.kill(run.pid, signal.SIGKILL)
    assert run.end() == -signal.SIGKILL
    assert not project.outs()

    again = project.start()
    assert again.end() == 0, again.err
    assert "going on from the checkpoint of step" in again.out
    assert project.outs() == reference.outs()
    assert project.steps() == reference.steps()


def test_after_sigterm(reference: Project, make_project: MakeProject, step: int) -> None:
    project = make_project()
    run = project.start()
    run.reach(step)
    os.kill(run.pid, signal.SIGTERM)
    assert run.end() == 75
    stopped = project.steps()[-1]
    requeue = project.folder / "runs/requeue.json"
    assert read_json(requeue) == {"stage": "pretrain", "run": project.run_folder.name, "step": stopped}
    assert run.err == f"franca: stopped at step {stopped} of {STEPS}; run again to go on from there\n"

    again = project.start()
    assert again.end() == 0, again.err
    assert f"going on from the checkpoint of step {stopped} of {STEPS}" in again.out
    assert not requeue.exists()
    assert project.outs() == reference.outs()


def test_a_second_trainer_is_refused(make_project: MakeProject) -> None:
    project = make_project()
    first = project.start()
    first.reach(1)
    os.kill(first.pid, signal.SIGSTOP)
    second = project.start()
    assert second.end() == 2
    assert second.err == f"franca: {project.run_folder}: process {first.pid} works here; wait for it or stop it\n"


def test_after_its_parent_died(reference: Project, make_project: MakeProject, step: int) -> None:
    project = make_project()
    run = project.start(between=True)
    run.reach(step)
    child = run.child_pid
    os.kill(run.pid, signal.SIGKILL)
    assert run.end() == -signal.SIGKILL
    wait_for(lambda: not Path(f"/proc/{child}").exists())
    assert "run again to go on from there" in run.err

    assert project.start().end() == 0
    assert project.outs() == reference.outs()


def test_with_processes_that_load_images(reference: Project, make_project: MakeProject, step: int) -> None:
    project = make_project({"runtime.workers": 2})
    run = project.start()
    run.reach(step)
    os.killpg(run.pid, signal.SIGTERM)  # as a scheduler cancels: the loading processes hear it too
    assert run.end() == 75, run.err
    assert run.err.startswith("franca: stopped at step") and run.err.count("\n") == 1

    again = project.start()
    assert again.end() == 0, again.err
    assert project.outs() == reference.outs()


def damage(folder: Path) -> None:
    path = folder / "__0_0.distcp"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damaged", [1, 2])
def test_past_damaged_checkpoints(reference: Project, make_project: MakeProject, damaged: int) -> None:
    project = make_project()
    shutil.copytree(reference.folder / "runs", project.folder / "runs")
    newest = project.checkpoints()[::-1]
    for path in newest[:damaged]:
        damage(path)
    run = project.start()
    assert run.end() == 0, run.err
    for path in newest[:damaged]:
        assert f"{path.name} is damaged (__0_0.distcp has changed); trying an older checkpoint" in run.out
    assert (f"going on from the checkpoint of step {STEPS - 2}" in run.out) == (damaged == 1)
    assert project.outs() == reference.outs()


def test_on_a_full_disk(reference: Project, make_project: MakeProject, step: int) -> None:
    project = make_project()
    run = project.start()
    run.reach(step)
    os.kill(run.pid, signal.SIGTERM)
    assert run.end() == 75
    before = project.checkpoints()

    full = project.start(largest_file=(before[-1] / "__0_0.distcp").stat().st_size - 1)
    assert full.end() == 2, full.err
    assert full.err.count("\n") == 1 and "no space left on the device" in full.err
    assert "older checkpoints are kept: free space and run again" in full.err
    assert project.checkpoints() == before

    again = project.start()
    assert again.end() == 0, again.err
    assert project.outs() == reference.outs()


@pytest.mark.parametrize(("processes", "log_steps"), [(1, 1), (2, 1), (2, 3)])
def test_images_that_vanish_lose_no_step(
    tmp_path: Path, make_project: MakeProject, tiny_params: MakeParams, processes: int, log_steps: int
) -> None:
    shards = [tmp_path / f"source/{shard}.tar" for shard in range(3)]
    for shard, path in enumerate(shards):
        write_tar(path, {f"{shard}-{i}.png": noise((shard, i)) for i in range(12)})
    changes = {"source": str(shards[0].parent), "dense_source": None, "storage": "in_place", "max_refused": 0.0}
    prepare(tiny_params().prepare.model_copy(update=changes), tmp_path / "prepared")
    changes = {
        "runtime.checkpoint_steps": 100,
        "runtime.log_steps": log_steps,
        "pretrain.losses.koleo_images": 4,
    }
    whole, project = (make_project(changes, name) for name in ("whole", "project"))
    for one in (whole, project):
        (one.folder / "prepared").unlink()
        (one.folder / "prepared").symlink_to(tmp_path / "prepared")
    assert [run.end() for run in whole.together(processes)] == [0] * processes

    runs = project.together(processes)
    runs[0].reach(3)
    shards[1].rename(tmp_path / "elsewhere")
    assert [run.end() for run in runs] == [2] * processes
    last_words = {run.err.splitlines()[-1] for run in runs}
    assert any("1.tar: it is gone" in said for said in last_words)
    assert all(said.startswith("franca: ") for said in last_words)
    assert not (project.folder / "runs/requeue.json").exists()
    (checkpoint,) = project.checkpoints()
    saved = int(checkpoint.name.split("-")[1])
    assert saved - log_steps < project.steps()[-1] <= saved

    (tmp_path / "elsewhere").rename(shards[1])
    assert [run.end() for run in project.together(processes)] == [0] * processes
    assert project.outs() == whole.outs()


def noise(seed: tuple[int, int]) -> bytes:
    """A PNG of random pixels."""
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.slow
def test_killed_again_and_again(reference: Project, make_project: MakeProject) -> None:
    project = make_project({"runtime.checkpoint_steps": 1})
    kills = 0
    while True:
        run, reached = project.start(), project.steps()[-1:]
        wait_for(lambda run=run, reached=reached: run.ended or project.steps()[-1:] > reached)  # type: ignore[misc]
        time.sleep(random.uniform(0, 0.05))
        if run.ended:
            break
        run.kill()
        kills += 1
    assert run.end() == 0, run.err
    assert kills > 3
    assert project.outs() == reference.outs()
