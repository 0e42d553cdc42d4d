"""6: the pretrain stage stops on SIGTERM and resumes, and ends with one line if the loss is not finite."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.gpu_check.finding import Finding, holds
from benchmarks.gpu_check.images import make_store
from benchmarks.gpu_check.project import SETTINGS, Project
from benchmarks.gpu_check.subject import tiny_params

EPOCHS = 5
STOP_AT = 3


def run(device: torch.device) -> Iterator[Finding]:
    """Stop and resume a run, and run one that diverges."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepared = make_store(folder, tiny_params(SETTINGS), 48, (64, 48), "png").folder
        stopped = Project(folder / "stopped", prepared, {"pretrain.epochs": EPOCHS})
        # A warmup would begin with small rates.
        diverging = Project(folder / "diverging", prepared, {"pretrain.epochs": 2, "pretrain.optimizer.base_lr": 1e30})
        first, other = stopped.start(), diverging.start()
        yield from _resumes(stopped, stopped.terminate_at(first, STOP_AT))
        yield from _diverges(diverging, diverging.end(other))


def _resumes(project: Project, code: int) -> Iterator[Finding]:
    total = EPOCHS * SETTINGS["pretrain.epoch_length"]
    reached = project.steps()[-1:]
    outcome = f"exit code {code} at step {reached} of {total}: {_last_line(project)}"
    yield holds("SIGTERM stops the stage", code == 75 and STOP_AT <= sum(reached) < total, outcome, "exit code 75")
    code = project.end(project.start())
    resumed = f"resuming from the checkpoint of step {sum(reached)}" in project.output
    logged = project.steps() == list(range(1, total + 1))
    written = (project.folder / "models/pretrained/model.safetensors").is_file()
    outcome = (
        f"exit code {code}, {'resumed' if resumed else 'not resumed'}, last step {project.steps()[-1:]} of {total}"
    )
    yield holds("the stage resumes to its end", code == 0 and resumed and logged and written, outcome, "exit code 0")


def _diverges(project: Project, code: int) -> Iterator[Finding]:
    last = _last_line(project)
    one_line = last.startswith("franca: the loss is not finite at step") and "Traceback" not in project.output
    yield holds("learning rate 1e30: one line and exit code 2", code == 2 and one_line, f"{code}: {last[:90]}", "2")
    saved = project.checkpoints("nonfinite")
    finite = [bool(project.weights(path).isfinite().all()) for path in saved]
    outcome = f"{len(saved)} checkpoints, finite: {finite}"
    yield holds("learning rate 1e30: finite weights are saved", finite == [True], outcome, "1 checkpoint")


def _last_line(project: Project) -> str:
    lines = [line for line in project.output.splitlines() if line.strip()]
    return lines[-1] if lines else "no output"
