"""The folder of one pretraining run, found again by what determines its result: plain files that are never an out.

runs/pretrain-<fingerprint>/run.json        facts: fingerprint, host, versions, threads, precision, head parameters
runs/pretrain-<fingerprint>/metrics.jsonl   a line a reading: step, time, metrics
runs/pretrain-<fingerprint>/checkpoints/
runs/pretrain-<fingerprint>/warned          there once the log says that the model is no better than its baselines
runs/pretrain-<fingerprint>/finished        there once the last step is done
runs/requeue.json                           there while a run that was asked to stop waits to be run again
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


def fingerprint(params: ResolvedParams, data_digest: str) -> str:
    """Digest of everything that decides a run's result: its params, the data, the code and the start weights."""
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
    def __init__(self, mark: str) -> None:
        self.path = runs_root() / f"pretrain-{mark}"
        self.checkpoints = self.path / "checkpoints"
        self._metrics = self.path / "metrics.jsonl"
        self.checkpoints.mkdir(parents=True, exist_ok=True)

    def write_facts(self, facts: dict[str, Any]) -> None:
        write_json(self.path / "run.json", facts)

    def start_at(self, step: int) -> None:
        """Forget readings after `step`: a resumed run writes them again."""
        kept = [json.dumps(line) + "\n" for line in self.readings() if line["step"] <= step]
        write_bytes(self._metrics, "".join(kept).encode())
        (self.path / "finished").unlink(missing_ok=True)

    def append(self, step: int, metrics: dict[str, float]) -> None:
        line = json.dumps({"step": step, "time": round(time.time(), 3), "metrics": metrics})
        with self._metrics.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def readings(self) -> Iterable[dict[str, Any]]:
        """Lines written so far; a last one that a kill cut short is left out."""
        if not self._metrics.exists():
            return []
        lines = self._metrics.read_text(encoding="utf-8").split("\n")
        return [json.loads(line) for line in lines[:-1]]

    def first_warning(self) -> bool:
        """Return whether this is the first call for this run, also over restarts of its process."""
        path = self.path / "warned"
        if path.exists():
            return False
        write_bytes(path, b"")
        return True

    def finish(self) -> None:
        write_bytes(self.path / "finished", b"")

    def ask_requeue(self, step: int) -> None:
        """Leave word for schedulers that the command is to be run again: DVC tells them no exit code."""
        write_json(requeue_path(), {"stage": "pretrain", "run": self.path.name, "step": step})

    def forget_requeue(self) -> None:
        path = requeue_path()
        if path.exists() and read_json(path)["run"] == self.path.name:
            path.unlink()


def machine_facts(device: torch.device, precision: str) -> dict[str, Any]:
    """What a run's bytes depend on beside its fingerprint, and where it ran."""
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
