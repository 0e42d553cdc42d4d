"""A project folder in which the pretrain stage runs, in separate processes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from benchmarks.gpu_check.subject import tiny_params
from franca.files import write_json

PATIENCE_SECONDS = 120
SETTINGS: dict[str, Any] = {
    "base.backbone.embed_dim": 64,
    "base.backbone.depth": 2,
    "base.image_size": 28,
    "pretrain.crops.local_size": 14,
    "pretrain.crops.local_count": 2,
    "pretrain.heads.prototypes": 256,
    "pretrain.heads.hidden_dim": 64,
    "pretrain.batch_size": 8,
    "pretrain.precision": "fp32",
    "pretrain.epoch_length": 4,
    "pretrain.knn_epochs": 1,
    "pretrain.optimizer.warmup_epochs": 0,
    "pretrain.losses.teacher_warmup_epochs": 1,
    "runtime.deterministic": "off",
    "runtime.log_steps": 1,
    "runtime.checkpoint_steps": 4,
    "runtime.keep_checkpoints": 100,
    "runtime.milestone_steps": None,
}
"""Steps of a few milliseconds, since these checks are about the loop around them."""
TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc-per-node=1", "-m")


class Project:
    """params.yaml and a prepared store; the stage runs on a GPU if there is one."""

    def __init__(self, folder: Path, prepared: Path, changes: dict[str, Any]) -> None:
        folder.mkdir(parents=True)
        (folder / "prepared").symlink_to(prepared)
        params = tiny_params(SETTINGS | changes)
        write_json(folder / "params.yaml", params.model_dump(mode="json", by_alias=True))
        self.folder = folder
        self.output = ""
        """Output of the last process."""

    def start(self, *launcher: str) -> "subprocess.Popen[bytes]":
        """Start `python -m franca pretrain`, by torchrun if `launcher` is TORCHRUN."""
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")]),
            "DVC_ROOT": str(self.folder),
            "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",  # no server: nothing is recorded
            "NCCL_DEBUG": "INFO",
        }
        command = [sys.executable, "-m", *launcher, "franca", "pretrain"]
        with (self.folder / "output").open("wb") as output:
            return subprocess.Popen(command, cwd=self.folder, env=environment, stdout=output, stderr=output)

    def end(self, process: "subprocess.Popen[bytes]") -> int:
        """Wait for a process, read its output and return its exit code."""
        try:
            code = process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        self.output = (self.folder / "output").read_text(errors="replace")
        if code not in (0, 2, 75):
            print(self.output[-4000:], file=sys.stderr)
        return code

    def terminate_at(self, process: "subprocess.Popen[bytes]", step: int) -> int:
        """Send SIGTERM once `step` is logged; return the exit code."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while len(self.losses()) < step and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        process.send_signal(signal.SIGTERM)
        return self.end(process)

    def losses(self) -> list[float]:
        """Return the loss of each step that the run has logged, in the order of the lines."""
        return [line["metrics"]["train/loss"] for line in self._lines()]

    def steps(self) -> list[int]:
        """Return the steps that the run has logged, in the order of the lines."""
        return [line["step"] for line in self._lines()]

    def _lines(self) -> list[dict[str, Any]]:
        found = [path.read_text() for path in (self.folder / "runs").glob("pretrain-*/metrics.jsonl")]
        return [json.loads(line) for line in "".join(found).split("\n")[:-1]]

    def checkpoints(self, kind: str = "checkpoints") -> list[Path]:
        """Return the checkpoint folders, oldest first; `kind` is the folder that holds them."""
        return sorted((self.folder / "runs").glob(f"pretrain-*/{kind}/step-*"))

    def weights(self, checkpoint: Path) -> Tensor:
        """Return all of the student's and the teacher's weights in one vector."""
        dcp_to_torch_save(checkpoint, self.folder / "weights.pt")
        state = torch.load(self.folder / "weights.pt", weights_only=True)
        parts = [state[network] for network in ("student", "teacher")]
        return torch.cat([part[name].flatten() for part in parts for name in sorted(part)])
