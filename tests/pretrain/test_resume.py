"""What a finished run leaves, and that a run that is interrupted in any way leaves the same, byte for byte."""

import io
import os
import random
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from franca.data.ingest.prepare import prepare
from franca.files import read_json
from franca.models import load_model
from tests.conftest import MakeParams, write_tar
from tests.pretrain.conftest import STEPS, MakeProject, Project, rows, wait_for

CURVES = ("loss", "knn", "rank", "agreement", "teacher_entropy", "prototypes_used")


@pytest.fixture
def step() -> int:
    """A step in the first half of a run, so that there is time to interrupt it before it ends."""
    return random.randint(2, STEPS // 2)


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


def test_curves_and_final_numbers(reference: Project) -> None:
    losses, knn = rows(reference, "loss"), rows(reference, "knn")
    assert [int(row["step"]) for row in losses] == reference.steps()
    assert set(losses[0]) == {"step", "loss", "dino", "ibot", "koleo"}
    assert all(0 <= float(row["top1"]) <= 100 for row in knn) and len(knn) == len(losses) // 3
    for curve in ("teacher_entropy", "prototypes_used"):
        names = {"step", *(f"{head}_level{width}" for head in ("dino", "ibot") for width in (2, 4, 8, 16, 32))}
        assert set(rows(reference, curve)[0]) == names
    assert all(
        0 <= float(value) <= 1 for row in rows(reference, "prototypes_used") for value in list(row.values())[1:]
    )
    final = read_json(reference.folder / "results/pretrain/metrics.json")
    last, rank = knn[-1], rows(reference, "rank")[-1]
    numbers = {"knn_top1": last["top1"], "knn_top1_random": last["random"], "knn_top1_pixels": last["pixels"]}
    numbers |= {"effective_rank": rank["rank"], "effective_rank_random": rank["random"]}
    assert {name: final.pop(name) for name in numbers} == pytest.approx(
        {name: float(value) for name, value in numbers.items()}, abs=0.01
    )
    assert final.pop("loss") == pytest.approx(sum(float(row["loss"]) for row in losses[-10:]) / 10, abs=1e-3)
    assert final == {
        "steps": len(losses),
        "fingerprint": reference.run_folder.name.removeprefix("pretrain-"),
    }
    facts = read_json(reference.run_folder / "run.json")
    assert facts["fingerprint"] == final["fingerprint"] and facts["threads"] == 1 and facts["precision"] == "fp32"


def test_the_model_learns_and_is_the_teacher(reference: Project) -> None:
    losses = [float(row["loss"]) for row in rows(reference, "loss")]
    assert sum(losses[-3:]) < sum(losses[:3])
    model = load_model(reference.folder / "models/pretrained")
    weights = {key.removeprefix("teacher."): value for key, value in reference.weights().items()}
    for key, value in model.state_dict().items():
        assert torch.equal(value, weights.get(key, torch.zeros(0, 2, 32))), key


def test_nothing_of_time_or_place_is_in_what_dvc_keeps(reference: Project) -> None:
    for name, content in reference.outs().items():
        assert str(reference.folder).encode() not in content, name
        assert b"time" not in content and b"host" not in content, name


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
    assert "resuming from the checkpoint of step" in again.out
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
    assert run.err == f"franca: stopped at step {stopped} of {STEPS}; run again to resume\n"

    again = project.start()
    assert again.end() == 0, again.err
    assert f"resuming from the checkpoint of step {stopped} of {STEPS}" in again.out
    assert not requeue.exists()
    assert project.outs() == reference.outs()


def test_a_second_trainer_is_refused(make_project: MakeProject) -> None:
    project = make_project()
    first = project.start()
    first.reach(1)
    os.kill(first.pid, signal.SIGSTOP)
    second = project.start()
    assert second.end() == 2
    assert second.err == f"franca: {project.run_folder}: in use by process {first.pid}; wait for it or stop it\n"


def test_after_its_parent_died(reference: Project, make_project: MakeProject, step: int) -> None:
    project = make_project()
    run = project.start(between=True)
    run.reach(step)
    child = run.child_pid
    os.kill(run.pid, signal.SIGKILL)
    assert run.end() == -signal.SIGKILL
    wait_for(lambda: not Path(f"/proc/{child}").exists())
    assert "run again to resume" in run.err

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


@pytest.mark.parametrize("damaged", [1, pytest.param(2, marks=pytest.mark.slow)])
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
    assert (f"resuming from the checkpoint of step {STEPS - 2}" in run.out) == (damaged == 1)
    assert project.outs() == reference.outs()


def test_with_a_file_size_limit(reference: Project, make_project: MakeProject) -> None:
    project = make_project()
    shutil.copytree(reference.folder / "runs", project.folder / "runs")
    shutil.rmtree(project.checkpoints()[-1])
    before = project.checkpoints()

    limited = project.start(largest_file=(before[-1] / "__0_0.distcp").stat().st_size - 1)
    assert limited.end() == 2, limited.err
    assert limited.err.count("\n") == 1 and "checkpoint not written, a file exceeds the size limit" in limited.err
    assert "older checkpoints are kept: raise the limit (ulimit -f) and run again" in limited.err
    assert project.checkpoints() == before

    again = project.start()
    assert again.end() == 0, again.err
    assert project.outs() == reference.outs()


@pytest.mark.parametrize(("processes", "log_steps"), [(1, 1), pytest.param(2, 1, marks=pytest.mark.slow), (2, 3)])
def test_images_that_vanish_lose_no_step(
    tmp_path: Path, make_project: MakeProject, tiny_params: MakeParams, processes: int, log_steps: int
) -> None:
    shards = [tmp_path / f"source/{shard}.tar" for shard in range(3)]
    for shard, path in enumerate(shards):
        write_tar(path, {f"{shard}-{i}.png": noise((shard, i)) for i in range(12)})
    changes = {"source": str(shards[0].parent), "dense_source": None, "storage": "in_place", "max_refused": 0.0}
    prepare(tiny_params().prepare.model_copy(update=changes), tmp_path / "prepared")
    changes = {
        "pretrain.epochs": 2,
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
