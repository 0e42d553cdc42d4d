"""Several processes, several microbatches and a single process train the same model."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from franca import presets
from franca.errors import FrancaError
from franca.files import read_json
from franca.plan import report
from franca.plan.hardware import Gpu
from franca.pretrain import loop
from franca.pretrain.microbatch import count_microbatches
from franca.pretrain.network import Network
from franca.pretrain.parallel import Ranks, local_images
from franca.stages import pretrain as stage
from tests.conftest import MakeParams, MakeValues
from tests.pretrain.conftest import PATIENCE_SECONDS, MakeProject, Project

# A batch that 1, 2 and 3 processes can share; SGD-like steps of AdamW would hide what the gradients are.
SHARED = {
    "pretrain.batch_size": 12,
    "pretrain.losses.koleo_images": 2,
    "pretrain.epochs": 2,
    "pretrain.losses.contrastive_weight": 1.0,
    "runtime.checkpoint_steps": 2,
}


def train(project: Project, processes: int) -> str:
    """Run the stage to its end in as many processes; returns what the first one printed."""
    runs = project.together(processes) if processes > 1 else [project.start()]
    assert [run.end() for run in runs] == [0] * processes, runs[-1].err
    return runs[0].out


def assert_alike(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    """Equal to float32 rounding after some steps: AdamW turns gradients at rounding level into steps of the rate."""
    assert one.keys() == other.keys()
    for name, value in one.items():
        share = float(((value - other[name]).abs() > 1e-4).float().mean())
        assert share < 0.01, f"{name}: {100 * share:.2f} % of the weights differ"


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, prepared: Path, tiny_values: MakeValues) -> Project:
    project = Project(tmp_path_factory.mktemp("alone"), prepared, tiny_values(SHARED))
    train(project, 1)
    return project


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory, prepared: Path, tiny_values: MakeValues) -> dict[str, Project]:
    """Finished runs of two processes with DDP and with FSDP2, which tests only read."""
    projects = {}
    for parallel in ("ddp", "fsdp"):
        values = tiny_values(SHARED | {"runtime.parallel": parallel})
        projects[parallel] = Project(tmp_path_factory.mktemp(parallel), prepared, values)
        train(projects[parallel], 2)
    return projects


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_train_the_same_model_as_one(alone: Project, pairs: dict[str, Project], parallel: str) -> None:
    project = pairs[parallel]
    assert_alike(project.weights(), alone.weights())
    for got, expected in zip(project.metrics(), alone.metrics(), strict=True):
        for name in (
            "train/loss",
            "train/koleo",
            "train/contrastive",
            "train/teacher_entropy/ibot/level32",
            "train/grad_norm/backbone",
        ):
            assert got[name] == pytest.approx(expected[name], rel=1e-3), name
        for name in ("train/prototypes_used/dino/level32", "train/prototypes_used/ibot/level2"):
            assert got[name] == expected[name]


def test_two_processes_with_fsdp_train_the_same_bytes_again(
    make_project: MakeProject, pairs: dict[str, Project]
) -> None:
    """With DDP this is what test_faults.py shows."""
    again = make_project(SHARED | {"runtime.parallel": "fsdp"}, "again")
    train(again, 2)
    assert again.outs() == pairs["fsdp"].outs()


def test_microbatches_train_the_same_model(make_project: MakeProject, alone: Project) -> None:
    project = make_project(SHARED | {"runtime.microbatch": 4})
    train(project, 1)
    assert_alike(project.weights(), alone.weights())


@pytest.mark.parametrize(
    ("parallel", "then"), [("ddp", 1), pytest.param("fsdp", 1, marks=pytest.mark.slow), ("fsdp", 3)]
)
def test_another_number_of_processes_goes_on(
    make_project: MakeProject, alone: Project, pairs: dict[str, Project], parallel: str, then: int
) -> None:
    project = make_project(SHARED | {"runtime.parallel": parallel})
    shutil.copytree(pairs[parallel].folder / "runs", project.folder / "runs")
    for path in project.checkpoints():
        if path.name != "step-00000002":
            for file in path.iterdir():
                file.write_bytes(b"")
    said = train(project, then)
    assert "resuming from the checkpoint of step 2 of 4" in said
    assert_alike(project.weights(), alone.weights())


@pytest.mark.parametrize(
    ("images", "koleo_images", "microbatch", "parts"),
    [
        (12, 2, None, 1),
        (12, 2, 12, 1),
        (12, 2, 11, 2),
        (12, 2, 5, 3),
        (12, 2, 2, 6),
        (384, 32, 96, 4),
        (384, 32, 160, 3),
    ],
)
def test_as_few_microbatches_as_the_limit_allows(
    tiny_params: MakeParams, images: int, koleo_images: int, microbatch: int | None, parts: int
) -> None:
    changes = {"pretrain.batch_size": images, "pretrain.losses.koleo_images": koleo_images}
    assert count_microbatches(images, tiny_params(changes | {"runtime.microbatch": microbatch})) == parts


def test_a_batch_that_cannot_be_shared_names_the_numbers_that_can(tiny_params: MakeParams) -> None:
    params = tiny_params(SHARED)
    assert local_images(params, Ranks(1, 3)) == range(4, 8)
    line = (
        "pretrain.batch_size: 12 images on 4 processes are 3 each, which is no multiple of"
        " pretrain.losses.koleo_images 2; use 1, 2, 3 or 6 processes"
    )
    with pytest.raises(FrancaError) as caught:
        local_images(params, Ranks(0, 4))
    assert str(caught.value) == line
    with pytest.raises(FrancaError, match=r"are 48 each, .*; use 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48 or 96 proc"):
        local_images(presets.load("vitl14-in21k"), Ranks(0, 64))
    assert len(local_images(presets.load("vitl14-in21k"), Ranks(95, 96))) == 32


def test_activation_checkpointing_is_for_the_student(
    make_project: MakeProject, pretrain: Callable[[Project], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def distribute(student: Network, teacher: Network, *_: Any) -> None:
        assert student.backbone.grad_checkpointing and not teacher.backbone.grad_checkpointing
        raise FrancaError("seen")

    monkeypatch.setattr(loop, "distribute", distribute)
    with pytest.raises(FrancaError, match="seen"):
        pretrain(make_project({"runtime.activation_checkpointing": True}))


def test_a_run_that_does_not_fit_the_gpu_is_refused_before_it_starts(
    make_project: MakeProject, pretrain: Callable[[Project], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "choose_device", lambda runtime: torch.device("cuda"))
    monkeypatch.setattr(report, "current_gpu", lambda: Gpu("NVIDIA L4", 1 << 30, None))
    with pytest.raises(FrancaError, match=r"a step needs 4.0 GiB .*, NVIDIA L4 has 1.0; use runtime.activation_ch"):
        pretrain(make_project())


def test_a_batch_that_cannot_be_shared_ends_the_run(make_project: MakeProject) -> None:
    project = make_project(SHARED | {"pretrain.losses.koleo_images": 12})
    for run in project.together(2):
        assert run.end() == 2
        assert run.err.endswith("pretrain.losses.koleo_images 12; use 1 processes\n")


@pytest.mark.slow
def test_the_command_starts_as_many_processes_as_params_say(make_project: MakeProject, alone: Project) -> None:
    project = make_project(SHARED | {"runtime.processes": 2})
    environment = os.environ | {"DVC_ROOT": str(project.folder), "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
    command = [sys.executable, "-m", "franca", "pretrain"]
    subprocess.run(command, cwd=project.folder, env=environment, check=True, timeout=PATIENCE_SECONDS)
    assert read_json(project.run_folder / "run.json")["processes"] == 2
    assert_alike(project.weights(), alone.weights())


def test_means_and_unions_of_one_process_are_its_own() -> None:
    flags, values = torch.tensor([True, False]), torch.tensor([1.0, 2.0])
    assert torch.equal(Ranks().mean(values), values) and torch.equal(Ranks().union(flags), flags)
    assert Ranks().any(True) and not Ranks().any(False) and Ranks().gather("said") == ["said"]
