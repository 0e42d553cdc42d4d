"""10: images per second, phases, memory and MFU of training steps, compared with a textbook form and lightly.

Each form runs in a separate process, with crops that are on the device already and masks that change every step. "MFU
as papers count" divides the matrix products of all samples, also those that stochastic depth drops, by the dense bf16
peak of the card's data sheet.
"""

import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch

from benchmarks.gpu_check.finding import Finding, holds, left_out
from benchmarks.gpu_check.timing import now
from benchmarks.step import count_flops
from benchmarks.step_franca import FrancaStep
from benchmarks.step_setting import Case, Setting
from benchmarks.step_textbook import TextbookStep
from franca.plan.hardware import peak_tflops
from franca.pretrain.microbatch import Microbatch

CASES = {
    "S/14": Case("photos-1gpu", 256, 128, 0.1, 14, 98),
    "B/14": Case("vitb14-in21k", 256, 64, 0.1, 14, 98),
    "L/14": Case("vitl14-in21k", 256, 64, 0.4, 14, 98),
    "L/14 x 32": Case("vitl14-in21k", 256, 32, 0.4, 14, 98),
}
RUNS = (
    ("L/14", "five", "franca", "compiled"),
    ("L/14 x 32", "one", "franca", "compiled"),
    ("L/14 x 32", "one", "lightly", "eager"),
    ("L/14 x 32", "five", "franca", "compiled"),
    ("L/14 x 32", "five", "textbook", "eager"),
    ("B/14", "five", "franca", "compiled"),
    ("L/14", "five", "franca", "eager"),
    ("L/14", "five", "franca", "compiled strict"),
    ("S/14", "five", "franca", "compiled"),
)
"""Model, levels, form and mode: compiled or eager, and with `runtime.deterministic: strict`."""
WARM_UP, STEPS = 5, 12
RUN_SECONDS, ALL_SECONDS = 120, 200


def run(device: torch.device) -> Iterator[Finding]:
    """Measure each of RUNS in a separate process."""
    if device.type != "cuda":
        yield left_out("throughput", "measured on GPUs only; `make bench` has the CPU's")
        return
    start = time.monotonic()
    for case, levels, form, mode in RUNS:
        label = f"ViT-{case}, {levels} level{'s' * (levels != 'one')}, {form}, {mode}"
        if form == "lightly" and importlib.util.find_spec("lightly") is None:
            yield left_out(label, "lightly is not installed")
        elif time.monotonic() - start > ALL_SECONDS:
            yield left_out(label, f"the limit of {ALL_SECONDS} s was reached")
        else:
            yield from _run(case, levels, form, mode, label)


def _run(case: str, levels: str, form: str, mode: str, label: str) -> Iterator[Finding]:
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.gpu_check.throughput", case, levels, form, mode]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_SECONDS)
    except subprocess.TimeoutExpired:
        yield holds(label, False, f"stopped after {RUN_SECONDS} s")
        return
    if done.returncode:
        yield holds(label, False, done.stderr.strip().splitlines()[-1][:300])
        return
    found = json.loads(done.stdout.splitlines()[-1])
    flops = count_flops(Setting(CASES[case], levels))
    peak = peak_tflops(torch.cuda.get_device_name())
    mfu = f"{flops / found['seconds'] / peak / 1e12:.1%}" if peak else "unknown peak"
    rate = CASES[case].batch / found["seconds"]
    yield Finding(
        label,
        f"{rate:.1f} images/s, {1e3 * found['seconds']:.1f} ms, {found['gb']:.1f} GB, MFU as papers count {mfu}",
    )
    if found["phases"]:
        yield Finding(f"{label}: ms", ", ".join(f"{name} {ms:.1f}" for name, ms in found["phases"].items()))


class _TimedStep(FrancaStep):
    """A step that records events at the start and end of each phase on the device, without waiting."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    def phase(self, name: str) -> AbstractContextManager[object]:
        return self._marked(name)

    @contextmanager
    def _marked(self, name: str) -> Iterator[None]:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        yield
        end.record()
        self.events.append((name, start, end))

    def milliseconds(self, steps: int) -> dict[str, float]:
        torch.cuda.synchronize()
        totals: dict[str, float] = {}
        for name, start, end in self.events:
            totals[name] = totals.get(name, 0.0) + start.elapsed_time(end) / steps
        return totals


def _make_step(form: str, setting: Setting) -> Any:
    if form == "lightly":
        # An optional package: the other forms are measured without it.
        from benchmarks.step_lightly import LightlyStep

        return LightlyStep(setting)
    return {"franca": _TimedStep, "textbook": TextbookStep}[form](setting)


def _measure(case: str, levels: str, form: str, mode: str) -> dict[str, Any]:
    runtime = {"compile": "compiled" in mode, "deterministic": "strict" if "strict" in mode else "off"}
    setting = Setting(CASES[case], levels, runtime=runtime)
    step = _make_step(form, setting)
    crops = step.crops()
    inputs = [_other_masks(crops, setting, seed) if isinstance(crops, Microbatch) else crops for seed in range(STEPS)]
    for number in range(WARM_UP):
        step.train(inputs[number])
    if form == "franca":
        step.events.clear()
    torch.cuda.reset_peak_memory_stats()
    start = now(setting.device)
    for microbatch in inputs:
        step.train(microbatch)
    seconds = (now(setting.device) - start) / STEPS
    phases = step.milliseconds(STEPS) if form == "franca" else {}
    return {"seconds": seconds, "gb": torch.cuda.max_memory_allocated() / 1e9, "phases": phases}


def _other_masks(microbatch: Microbatch, setting: Setting, seed: int) -> Microbatch:
    (masks,) = setting.masks(seed)
    return Microbatch(microbatch.global_crops, microbatch.local_crops, *(x.to(setting.device) for x in masks))


if __name__ == "__main__":
    print(json.dumps(_measure(*sys.argv[1:])))
