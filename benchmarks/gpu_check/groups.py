"""7: DDP and FSDP2 in a process group of one train like a plain run, which can resume from FSDP2's checkpoint.

NCCL refuses two processes on one GPU. With one process, started by torchrun, the collectives run as well.
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
    """Train with DDP and FSDP2 in a group of one process, and compare with a run without a group."""
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
                    f"{how}, one process: NCCL", "NCCL INFO" in project.output, "its messages in the log", "used"
                )
            yield from _compare(f"{how}, one process", project, plain)

        # Remove later checkpoints, as if the run had been stopped at RESUMED.
        sharded = shared["fsdp"]
        for path in sharded.checkpoints():
            if path.name != f"step-{RESUMED:08d}":
                shutil.rmtree(path)
        code = sharded.end(sharded.start())
        resumed = f"resuming from the checkpoint of step {RESUMED}" in sharded.output
        outcome = f"exit code {code}, {'resumed' if resumed else 'not resumed'}"
        yield holds("checkpoint of fsdp in a plain run", code == 0 and resumed, outcome, f"from step {RESUMED}")
        yield from _compare("checkpoint of fsdp in a plain run", sharded, plain)


def _compare(name: str, project: Project, plain: Project) -> Iterator[Finding]:
    """Compare the losses of all steps and the last checkpoint's weights with those of the plain run."""
    losses = list(zip(project.losses(), plain.losses(), strict=True))
    yield at_most(f"{name}: worst loss of {len(losses)} steps", max(abs(a / b - 1) for a, b in losses), LOSS_LIMIT)
    weights = [run.weights(run.checkpoints()[-1]) for run in (project, plain)]
    yield at_most(f"{name}: weights after step {STEPS}", relative(*weights), WEIGHTS_LIMIT)
