"""If one of several processes fails, all end in the same way, none hangs, and the next run resumes exactly."""

import json
import os
import random
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from pytest import FixtureRequest

from franca.errors import FrancaError
from franca.pretrain.parallel import Ranks
from franca.pretrain.peers import peers_watched
from tests.conftest import MakeValues
from tests.pretrain import together
from tests.pretrain.conftest import Project, Run, wait_for
from tests.pretrain.together import in_processes

STEPS = 6
SETTINGS = [
    pytest.param((2, "ddp"), id="2-ddp"),
    pytest.param((2, "fsdp"), id="2-fsdp", marks=pytest.mark.slow),
    pytest.param((4, "ddp"), id="4-ddp", marks=pytest.mark.slow),
    pytest.param((4, "fsdp"), id="4-fsdp", marks=pytest.mark.slow),
]


@pytest.fixture(scope="module", params=SETTINGS)
def whole(
    request: FixtureRequest, tmp_path_factory: pytest.TempPathFactory, prepared: Path, tiny_values: MakeValues
) -> Project:
    """A finished, uninterrupted run of several processes."""
    processes, parallel = request.param
    changes = {
        "pretrain.epochs": STEPS / 3,
        "pretrain.losses.koleo_images": 8 // processes,
        "runtime.parallel": parallel,
        "runtime.processes": processes,
    }
    project = Project(tmp_path_factory.mktemp("whole") / "project", prepared, tiny_values(changes))
    assert [run.end() for run in project.together(processes)] == [0] * processes
    return project


@pytest.fixture
def project(whole: Project, tmp_path: Path, prepared: Path) -> Iterator[Project]:
    """A project with the same parameters that has not run yet."""
    project = Project(tmp_path / "project", prepared, json.loads((whole.folder / "params.yaml").read_text()))
    yield project
    project.close()


def check_resumes(project: Project, whole: Project) -> str:
    """Run again to the end; return the output of the first process."""
    again = project.together(project.params.runtime.processes)
    assert [run.end() for run in again] == [0] * len(again), [run.err for run in again]
    assert "resuming from the checkpoint of step" in again[0].out
    assert project.outs() == whole.outs()
    assert project.steps() == whole.steps()
    return again[0].out


def check_one_line(run: Run, start: str) -> None:
    """Check that a process has ended with one line of ours; torch may have printed warnings before it."""
    assert run.end() == 2, run.err
    assert run.err.splitlines()[-1].startswith(f"franca: {start}"), run.err
    assert run.err.count("franca: ") == 1 and "Traceback" not in run.err, run.err


def test_a_process_that_is_killed(whole: Project, project: Project) -> None:
    processes = project.params.runtime.processes
    runs = project.together(processes)
    runs[0].reach(3)
    wait_for(project.checkpoints)
    victim = random.randrange(processes)
    os.kill(runs[victim].pid, signal.SIGKILL)
    assert runs[victim].end() == -signal.SIGKILL
    survivors = {rank: run for rank, run in enumerate(runs) if rank != victim}
    for rank, run in survivors.items():
        check_one_line(run, f"process {rank} of {processes}: another training process has ended, see its own message")
    first = survivors[min(survivors)]
    assert first.err.endswith(f"run again to resume from step {int(project.checkpoints()[-1].name.split('-')[1])}\n")
    assert not project.outs()
    check_resumes(project, whole)


def test_a_process_that_reaches_its_file_size_limit(whole: Project, project: Project) -> None:
    shutil.copytree(whole.folder / "runs", project.folder / "runs")
    shutil.rmtree(project.checkpoints()[-1])
    (before,) = project.checkpoints()
    processes = project.params.runtime.processes
    victim = random.randrange(processes)
    limit = (before / f"__{victim}_0.distcp").stat().st_size - 1
    for run in project.together(processes, largest_files={victim: limit}):
        check_one_line(run, f"{project.run_folder}/checkpoints: checkpoint not written, a file exceeds the size")
    assert project.checkpoints() == [before]
    check_resumes(project, whole)


@pytest.mark.parametrize("fault", ["gone", "unreadable"])
def test_a_shard_that_is_lost(whole: Project, project: Project, fault: str) -> None:
    shutil.copytree(whole.folder / "runs", project.folder / "runs")
    older, newest = project.checkpoints()
    shard = newest / f"__{project.params.runtime.processes - 1}_0.distcp"
    shard.unlink()
    if fault == "unreadable":
        shard.mkdir()
    out = check_resumes(project, whole)
    said = "damaged ([Errno 2]" if fault == "gone" else "unreadable ([Errno 21]"
    assert f"{newest.name} is {said}" in out
    assert f"resuming from the checkpoint of step {int(older.name.split('-')[1])} of {STEPS}" in out


def test_replicated_state_is_copied_and_hashed_once(tmp_path: Path) -> None:
    copied = in_processes(3, tmp_path, together.save, [1])
    total = sum(value.nbytes for part in together.state().values() for value in part.values())
    assert sum(copied) == total and max(copied) < 0.5 * total
    answers = in_processes(2, tmp_path, together.load)
    files = {path.name for path in (tmp_path / "checkpoints/step-00000001").iterdir()} - {"digests.json"}
    assert files == {".metadata", "rest.pt", *(f"__{rank}_0.distcp" for rank in range(3))}
    assert sorted(file for answer in answers for file in answer[4]) == sorted(
        f"step-00000001/{name}" for name in files
    )
    assert [answer[:4] for answer in answers] == [[1, {"rank": 0}, True, []]] * 2


@pytest.mark.parametrize("where", ["folder", "tensors", "hashing", "end"])
def test_a_fault_of_one_process_while_saving_ends_all(tmp_path: Path, where: str) -> None:
    in_processes(2, tmp_path, together.save, [1])
    rank = int(where in ("tensors", "hashing"))
    said = (
        f"{tmp_path}/checkpoints: checkpoint not written, [Errno 5] Input/output error; older checkpoints are kept:"
        " run again to resume from the newest"
    )
    assert in_processes(2, tmp_path, together.save_with_fault, rank, where) == [said, said]
    assert [answer[0] for answer in in_processes(2, tmp_path, together.load)] == [1, 1]


@pytest.mark.parametrize("where", ["digests", "hashing", "rest", "metadata", "tensors", "list"])
def test_a_fault_of_one_process_while_loading_is_shared(tmp_path: Path, where: str) -> None:
    in_processes(2, tmp_path, together.save, [1, 2])
    if where != "list":
        first, second = in_processes(2, tmp_path, together.load_with_fault, 1, where, "step-00000002")
        assert first[:3] == second[:3] == [1, {"rank": 0}, True]
        assert len(first[3]) == 1 and first[3][0].startswith("step-00000002 is unreadable (") and not second[3]
        assert "Input/output error" in first[3][0]
    answers = in_processes(2, tmp_path, together.load_with_fault, 1, where, "")
    assert answers[0] == answers[1]
    assert answers[0].startswith(f"{tmp_path}/checkpoints: no checkpoint can be loaded (") and "\n" not in answers[0]


def test_the_first_step_of_several_replicas_adds_gradients_in_the_order_of_all_others(
    tmp_path: Path, tiny_values: MakeValues
) -> None:
    digests = {digest for own in in_processes(4, tmp_path, together.gradients, tiny_values()) for digest in own}
    assert len(digests) == 1


def test_only_a_lost_connection_means_that_a_process_ended(tmp_path: Path) -> None:
    lost = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:561] Connection closed by peer [127.0.0.1]:43166"
    with (
        pytest.raises(FrancaError, match=r"^process 1 of 2: another training process has ended.* from step 0$"),
        peers_watched(tmp_path, Ranks(1, 2)),
    ):
        raise RuntimeError(lost)
    with pytest.raises(RuntimeError, match="CUDA error"), peers_watched(tmp_path, Ranks(1, 2)):
        raise RuntimeError("CUDA error: out of memory")
