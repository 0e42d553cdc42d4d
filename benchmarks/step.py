"""Training steps per second of the product, a textbook form and lightly, from decoded images to the updated teacher.

`python -m benchmarks.step` prints two tables. Model, crops, batch, prototypes, precision and stochastic depth are the
same in all forms. On a CPU these are the demo's, which drops nothing, and a ViT-S/16 that drops 0.3 of the samples in
each block, in float32 on one core; on a GPU a ViT-L/14 that drops 0.4, in bfloat16. With one level all three forms are
compared, with five only the first two, since lightly has no nested heads. `step_textbook.py` and `step_lightly.py`
describe their forms. The product computes only the samples that a block keeps, the others compute all. Before timing,
product and textbook form are checked to have the same loss and the same gradients.

`franca_is_faster` is franca's images per second divided by the form's; `without_crops` is the same without cutting
crops, which other processes may do. `peak_mib` is the peak memory above that before the first step; each form has its
own process. `mfu` is the share of the machine's speed in large matrix products, counting all products of the textbook
form, also those of dropped samples, as papers do; the product computes fewer. The second table divides the product's
time into phases.
"""

import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.memory import resident
from benchmarks.step_franca import FrancaStep, franca_crops
from benchmarks.step_setting import CPU_CASES, CUDA_CASES, LEVELS, Form, Setting
from benchmarks.step_textbook import TextbookStep, textbook_losses
from benchmarks.tables import table
from franca.pretrain.microbatch import Microbatch
from franca.pretrain.network import Network

FORMS = {"one": ("franca", "textbook", "lightly"), "five": ("franca", "textbook")}
TURNS, TURN_SECONDS = 3, 0.5
STEPS_AT_ONCE = {"cpu": 1, "cuda": 5}
"""Number of steps between two readings of the clock, for which the host waits for the GPU."""
PRODUCT_SIDE = {"cpu": 2048, "cuda": 8192}
"""Side of the matrices with which the machine's speed is measured."""


def rows() -> list[dict[str, Any]]:
    """Return a row for each form and setting, and one for each setting with the shares of the product's phases."""
    if importlib.util.find_spec("lightly") is None:
        raise SystemExit("benchmarks.step: lightly is not installed; run `make bench`, which installs it")
    check()
    cases = CUDA_CASES if torch.cuda.is_available() else CPU_CASES
    found = [_compare(case, levels) for levels in LEVELS for case in cases]
    return [row for forms, _ in found for row in forms] + [phases for _, phases in found]


def check() -> None:
    """Assert that product and textbook form have the same loss and gradients for the demo's model in float32."""
    for levels in LEVELS:
        setting = Setting("overhead-cpu", levels, precise=True)
        ours, plain = FrancaStep(setting), TextbookStep(setting)
        microbatch = franca_crops(setting)
        torch.testing.assert_close(ours.backward(microbatch), plain.backward(microbatch), rtol=1e-5, atol=0)
        for (name, one), (_, other) in zip(
            ours.student.named_parameters(), plain.student.named_parameters(), strict=True
        ):
            assert one.grad is not None and other.grad is not None, name
            assert (one.grad - other.grad).norm() < 1e-3 * other.grad.norm() + 1e-7, name


def _compare(case: str, levels: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    setting = Setting(case, levels)
    flops, speed = count_flops(setting), 0.0
    turns: dict[str, list[dict[str, float]]] = {form: [] for form in FORMS[levels]}
    with ExitStack() as stack:
        processes = {form: stack.enter_context(_process(form, case, levels)) for form in turns}
        for _ in range(TURNS):
            # Forms alternate, and the best turn of each counts, so that other load slows all forms equally.
            for form, process in processes.items():
                turns[form].append(_ask(process, "step"))
            speed = max(speed, _speed(setting.device))
        ends = {form: _ask(process, "end") for form, process in processes.items()}
    whole, crops = (
        {form: min(turn[name] for turn in turns[form]) for form in turns} for name in ("seconds", "crops_seconds")
    )
    compared = [
        {
            "model": case,
            "levels": levels,
            "form": form,
            "images_per_second": round(setting.batch / whole[form], 2),
            "franca_is_faster": round(whole[form] / whole["franca"], 2),
            "without_crops": round((whole[form] - crops[form]) / (whole["franca"] - crops["franca"]), 2),
            "peak_mib": round(ends[form]["mib"]),
            "mfu": round(flops / whole[form] / speed, 3),
        }
        for form in turns
    ]
    phases = {name: seconds for name, seconds in ends["franca"].items() if name != "mib"}
    shares = {name: f"{seconds / sum(phases.values()):.1%}" for name, seconds in phases.items()}
    return compared, {"model": case, "levels": levels, **shares}


def _process(form: str, case: str, levels: str) -> subprocess.Popen[str]:
    # lightly's heads use a deprecated function of PyTorch.
    command = [sys.executable, "-W", "ignore::FutureWarning", "-m", "benchmarks.step", form, case, levels]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _ask(process: subprocess.Popen[str], question: str) -> dict[str, float]:
    """Send a line to a form's process and return its answer."""
    assert process.stdin and process.stdout
    print(question, file=process.stdin, flush=True)
    if not (line := process.stdout.readline()):
        raise SystemExit(f"benchmarks.step: {' '.join(map(str, process.args))} ended")  # type: ignore[arg-type]
    answer: dict[str, float] = json.loads(line)
    return answer


def _answer(form: str, case: str, levels: str) -> None:
    """Run one form in this process, controlled by lines of input.

    "step" is answered with the seconds of a step and of its crops, "end" with the peak MiB and the seconds of the
    product's phases.
    """
    setting = Setting(case, levels)
    torch.set_num_threads(setting.params.runtime.threads)
    step = _make(form, setting)
    step.crops()
    before, peak = _memory(setting.device), 0
    for question in sys.stdin:
        if question.strip() == "end":
            phases = _phases(step, setting.device) if isinstance(step, FrancaStep) else {}
            print(json.dumps({"mib": (peak - before) / 2**20, **phases}), flush=True)
            break
        seconds = _seconds(lambda: step.train(step.crops()), setting.device)
        peak = _memory(setting.device, peak=True)
        print(json.dumps({"seconds": seconds, "crops_seconds": _seconds(step.crops, setting.device)}), flush=True)
        if setting.device.type == "cuda":
            torch.cuda.empty_cache()  # for the others


def _make(form: str, setting: Setting) -> Form:
    if form == "lightly":
        from benchmarks.step_lightly import LightlyStep

        return LightlyStep(setting)
    return FrancaStep(setting) if form == "franca" else TextbookStep(setting)


def _seconds(function: Callable[[], object], device: torch.device) -> float:
    """Return the seconds of the fastest call in a turn."""
    best, count, end = float("inf"), STEPS_AT_ONCE[device.type], _now(device) + TURN_SECONDS
    while (start := _now(device)) < end:
        for _ in range(count):
            function()
        best = min(best, (_now(device) - start) / count)
    return best


def _phases(step: FrancaStep, device: torch.device) -> dict[str, float]:
    """Return the seconds of each phase of the product's steps, waiting for the device after each phase."""
    step.time_phases(lambda: _now(device))
    end = _now(device) + TURN_SECONDS
    while _now(device) < end:
        step.train(step.crops())
    return step.seconds


def _now(device: torch.device) -> float:
    """Return the time in seconds: processor time on a CPU, so that other processes have little influence."""
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def _memory(device: torch.device, peak: bool = False) -> int:
    """Return the bytes of memory of this process, now or at the peak."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() if peak else torch.cuda.memory_allocated()
    return resident(peak)


def _speed(device: torch.device) -> float:
    """Return the floating-point operations per second of a large matrix product."""
    torch.set_num_threads(1)
    side = PRODUCT_SIDE[device.type]
    matrix = torch.randn(side, side, device=device, dtype=torch.float32 if device.type == "cpu" else torch.bfloat16)
    return 2 * side**3 / _seconds(lambda: matrix @ matrix, device)


def count_flops(setting: Setting) -> int:
    """Return the floating-point operations of the products of one step, counted on meta tensors."""
    params, meta = setting.params, torch.device("meta")
    with meta:
        student, teacher = (Network(params.base, params.pretrain) for _ in range(2))
    teacher.eval().requires_grad_(False)
    microbatch = Microbatch(*(x.to(meta) for x in franca_crops(setting)))
    with FlopCounterMode(display=False) as counter:
        torch.stack(list(textbook_losses(student, teacher, microbatch, setting).values())).sum().backward()
    return counter.get_total_flops()


if __name__ == "__main__":
    if sys.argv[1:]:
        _answer(*sys.argv[1:])
    else:
        print(table(rows()))
