"""7: a process group of one, by torchrun: DDP and FSDP2 train as a plain run does, which can go on from FSDP2's state.

NCCL refuses two processes on one GPU, so one process is what a single GPU can check; the collectives run all the same.
"""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.gpu_check.finding import Finding, at_most, holds
from benchmarks.gpu_check.images import make_store
from benchmarks.gpu_check.project import SETTINGS, TORCHRUN, Project
from benchmarks.gpu_check.subject import relative, tiny_params

STEPS, RESUMED = 6, 4
LOSS_LIMIT, WEIGHTS_LIMIT = 1e-4, 1e-3


def run(device: torch.device) -> Iterator[Finding]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepared = make_store(folder, tiny_params(SETTINGS), 48, (64, 48), "png").folder
        epochs = {"pretrain.epochs": STEPS / SETTINGS["pretrain.epoch_length"]}
        plain = Project(folder / "plain", prepared, epochs)
        shared = {how: Project(folder / how, prepared, epochs | {"runtime.parallel": how}) for how in ("ddp", "fsdp")}
        processes = {how: project.start(*TORCHRUN) for how, project in shared.items()}
        code = plain.end(plain.start())
        yield holds("plain run", code == 0, f"exit code {code}", "0")
        for how, project in shared.items():
            code = project.end(processes[how])
            yield holds(f"{how}, one process: run", code == 0, f"exit code {code}", "0")
            if device.type == "cuda":
                yield holds(
                    f"{how}, one process: NCCL", "NCCL INFO" in project.said, "its messages in the log", "used"
                )
            yield from _compare(f"{how}, one process", project, plain)

        # What a run that was stopped at RESUMED leaves: no later checkpoint.
        sharded = shared["fsdp"]
        for path in sharded.checkpoints():
            if path.name != f"step-{RESUMED:08d}":
                shutil.rmtree(path)
        code = sharded.end(sharded.start())
        resumed = f"going on from the checkpoint of step {RESUMED}" in sharded.said
        told = f"exit code {code}, {'resumed' if resumed else 'not resumed'}"
        yield holds("checkpoint of fsdp in a plain run", code == 0 and resumed, told, f"from step {RESUMED}")
        yield from _compare("checkpoint of fsdp in a plain run", sharded, plain)


def _compare(name: str, project: Project, plain: Project) -> Iterator[Finding]:
    """Compare the losses of all steps and the last checkpoint's weights with those of the plain run."""
    losses = list(zip(project.losses(), plain.losses(), strict=True))
    yield at_most(f"{name}: worst loss of {len(losses)} steps", max(abs(a / b - 1) for a, b in losses), LOSS_LIMIT)
    weights = [run.weights(run.checkpoints()[-1]) for run in (project, plain)]
    yield at_most(f"{name}: weights after step {STEPS}", relative(*weights), WEIGHTS_LIMIT)
