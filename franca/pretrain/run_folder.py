"""The folder of one pretraining run, named by a fingerprint of everything that determines the run's result.

runs/pretrain-<fingerprint>/run.json        facts: fingerprint, host, versions, threads, precision, head parameters
runs/pretrain-<fingerprint>/metrics.jsonl   one line per reading: step, time, metrics
runs/pretrain-<fingerprint>/checkpoints/
runs/pretrain-<fingerprint>/warned          exists once the log has said that the model is no better than its baselines
runs/pretrain-<fingerprint>/finished        exists once the last step is done
runs/requeue.json                           exists while a run that was stopped early waits to be run again

These files are not DVC outputs: DVC would delete checkpoints before a stage runs, or restore those of another run.
"""

import hashlib
import json
import os
import platform
import time
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import franca
from franca.files import read_json, sha256_tree, write_bytes, write_json
from franca.params import ResolvedParams
from franca.paths import requeue_path, runs_root

CODE = ("stages/pretrain.py", "data/store", "data/views", "losses", "models", "pretrain", "probes", "runtime.py")
"""Code that can change the result of a run, relative to the package."""


def fingerprint(params: ResolvedParams, data_digest: str) -> str:
    """Return 12 hexadecimal digits that identify a run's result.

    They are a digest of params, data, code, initial weights and the versions of torch and timm.

    Args:
        params: All parameters; only those that determine the result count.
        data_digest: Digest of the prepared store.
    """
    package = Path(franca.__file__).parent
    start = Path(params.pretrain.init) if params.pretrain.init else None
    content = {
        "base": params.base.model_dump(),
        "pretrain": params.pretrain.model_dump(),
        "threads": params.runtime.threads,
        "device": params.runtime.device,
        "data": data_digest,
        "code": sha256_tree(*(package / part for part in CODE)),
        "init": sha256_tree(start) if start and start.exists() else None,
        "versions": {name: metadata.version(name) for name in ("torch", "timm")},
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


class RunFolder:
    """The files of one run; created if they do not exist."""

    def __init__(self, mark: str) -> None:
        self.path = runs_root() / f"pretrain-{mark}"
        self.checkpoints = self.path / "checkpoints"
        self._metrics = self.path / "metrics.jsonl"
        self.checkpoints.mkdir(parents=True, exist_ok=True)

    def write_facts(self, facts: dict[str, Any]) -> None:
        """Write run.json."""
        write_json(self.path / "run.json", facts)

    def start_at(self, step: int) -> None:
        """Remove readings after `step`, which a resumed run writes again."""
        kept = [json.dumps(line) + "\n" for line in self.readings() if line["step"] <= step]
        write_bytes(self._metrics, "".join(kept).encode())
        (self.path / "finished").unlink(missing_ok=True)

    def append(self, step: int, metrics: dict[str, float]) -> None:
        """Append one reading to metrics.jsonl."""
        line = json.dumps({"step": step, "time": round(time.time(), 3), "metrics": metrics})
        with self._metrics.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def readings(self) -> Iterable[dict[str, Any]]:
        """Return the readings so far; an incomplete last line, left by a kill, is ignored."""
        if not self._metrics.exists():
            return []
        lines = self._metrics.read_text(encoding="utf-8").split("\n")
        return [json.loads(line) for line in lines[:-1]]

    def first_warning(self) -> bool:
        """Return whether this is the first call for this run, counting calls before a restart."""
        path = self.path / "warned"
        if path.exists():
            return False
        write_bytes(path, b"")
        return True

    def finish(self) -> None:
        """Mark the run as finished."""
        write_bytes(self.path / "finished", b"")

    def ask_requeue(self, step: int) -> None:
        """Write requeue.json, which tells schedulers to run the command again: DVC hides the stage's exit code."""
        write_json(requeue_path(), {"stage": "pretrain", "run": self.path.name, "step": step})

    def forget_requeue(self) -> None:
        """Remove requeue.json if it is about this run."""
        path = requeue_path()
        if path.exists() and read_json(path)["run"] == self.path.name:
            path.unlink()


def machine_facts(device: torch.device, precision: str) -> dict[str, Any]:
    """Return what the bytes of a result depend on in addition to the fingerprint, and where the run takes place."""
    names = ("torch", "timm", "numpy", "pillow", "safetensors")
    return {
        "host": platform.node(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in names} | {"franca": franca.__version__},
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "cpu_count": os.cpu_count(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "precision": precision,
        "optimizer": "fused AdamW",
    }
