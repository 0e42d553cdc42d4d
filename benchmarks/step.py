"""Training steps a second: the product's, a textbook's and lightly's, from decoded images to the moved teacher.

`python -m benchmarks.step` prints two tables. Model, crops, batch, prototypes, precision and stochastic depth are the
same in all forms: on a CPU the demo's, which drops nothing, and a ViT-S/16 that drops 0.3 of the samples in each
block, in float32 on one core; on a GPU a ViT-L/14 that drops 0.4, in bfloat16. With one level all three forms take
part, for lightly has no nested heads; with five the first two. `step_textbook.py` and `step_lightly.py` tell what they
do. The product computes the samples alone that a block does not drop, the others compute all. Before anything is
timed, product and textbook must have the same loss and the same gradients.

`franca_is_faster` is franca's images a second over the form's, and the same `without_crops`, which other processes may
make. `peak_mib` is memory over what a process, of its own for each form, had before its first step. `mfu` is the share
of the machine's speed in large matrix products that a step reaches with the products of the textbook's form, those of
dropped samples included, as papers count; the product computes fewer. The second table tells where its time goes.
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
from franca.pretrain.microbatch import Part
from franca.pretrain.network import Network

FORMS = {"one": ("franca", "textbook", "lightly"), "five": ("franca", "textbook")}
TURNS, TURN_SECONDS = 3, 0.5
STEPS_AT_ONCE = {"cpu": 1, "cuda": 5}
"""Steps between two looks at the clock: a GPU may work through several before it is waited for."""
PRODUCT_SIDE = {"cpu": 2048, "cuda": 8192}
"""Side of the matrices of which the machine's speed is measured."""


def rows() -> list[dict[str, Any]]:
    """One dict for each form and setting, and one for each setting with the shares of the product's parts."""
    if importlib.util.find_spec("lightly") is None:
        raise SystemExit("benchmarks.step needs lightly, which is not installed: `make bench` installs what it needs")
    check()
    cases = CUDA_CASES if torch.cuda.is_available() else CPU_CASES
    found = [_compare(case, levels) for levels in LEVELS for case in cases]
    return [row for forms, _ in found for row in forms] + [parts for _, parts in found]


def check() -> None:
    """Product and textbook have the same loss and the same gradients, in float32, of the demo's model."""
    for levels in LEVELS:
        setting = Setting("overhead-cpu", levels, precise=True)
        ours, plain = FrancaStep(setting), TextbookStep(setting)
        part = franca_crops(setting)
        torch.testing.assert_close(ours.backward(part), plain.backward(part), rtol=1e-5, atol=0)
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
            # Forms take turns, and the best counts: what else the machine does slows all alike.
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
    parts = {name: seconds for name, seconds in ends["franca"].items() if name != "mib"}
    shares = {name: f"{seconds / sum(parts.values()):.1%}" for name, seconds in parts.items()}
    return compared, {"model": case, "levels": levels, **shares}


def _process(form: str, case: str, levels: str) -> subprocess.Popen[str]:
    # lightly's heads use a function that PyTorch warns of.
    command = [sys.executable, "-W", "ignore::FutureWarning", "-m", "benchmarks.step", form, case, levels]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _ask(process: subprocess.Popen[str], question: str) -> dict[str, float]:
    """What a form's process answers."""
    assert process.stdin and process.stdout
    print(question, file=process.stdin, flush=True)
    if not (line := process.stdout.readline()):
        raise SystemExit(f"benchmarks.step: {' '.join(map(str, process.args))} ended")  # type: ignore[arg-type]
    answer: dict[str, float] = json.loads(line)
    return answer


def _answer(form: str, case: str, levels: str) -> None:
    """One form in this process. Of each line of input, "step" is answered by the seconds of a step and of its crops
    alone, "end" by the peak MiB and by the seconds of the product's parts."""
    setting = Setting(case, levels)
    torch.set_num_threads(setting.params.runtime.threads)
    step = _make(form, setting)
    step.crops()
    before, peak = _memory(setting.device), 0
    for question in sys.stdin:
        if question.strip() == "end":
            parts = _parts(step, setting.device) if isinstance(step, FrancaStep) else {}
            print(json.dumps({"mib": (peak - before) / 2**20, **parts}), flush=True)
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
    """Of one call, the best of a turn."""
    best, count, end = float("inf"), STEPS_AT_ONCE[device.type], _now(device) + TURN_SECONDS
    while (start := _now(device)) < end:
        for _ in range(count):
            function()
        best = min(best, (_now(device) - start) / count)
    return best


def _parts(step: FrancaStep, device: torch.device) -> dict[str, float]:
    """Seconds of each phase of the product's steps; the device is waited for after each."""
    step.time_phases(lambda: _now(device))
    end = _now(device) + TURN_SECONDS
    while _now(device) < end:
        step.train(step.crops())
    return step.seconds


def _now(device: torch.device) -> float:
    """Seconds of the processor on a CPU, so that other work on it counts for little."""
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def _memory(device: torch.device, peak: bool = False) -> int:
    """Bytes that this process has, or has had at most."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() if peak else torch.cuda.memory_allocated()
    return resident(peak)


def _speed(device: torch.device) -> float:
    """Floating-point operations a second of a large matrix product."""
    torch.set_num_threads(1)
    side = PRODUCT_SIDE[device.type]
    matrix = torch.randn(side, side, device=device, dtype=torch.float32 if device.type == "cpu" else torch.bfloat16)
    return 2 * side**3 / _seconds(lambda: matrix @ matrix, device)


def count_flops(setting: Setting) -> int:
    """Of the products of one step, counted on tensors without contents."""
    params, meta = setting.params, torch.device("meta")
    with meta:
        student, teacher = (Network(params.base, params.pretrain) for _ in range(2))
    teacher.eval().requires_grad_(False)
    part = Part(*(x.to(meta) for x in franca_crops(setting)))
    with FlopCounterMode(display=False) as counter:
        torch.stack(list(textbook_losses(student, teacher, part, setting).values())).sum().backward()
    return counter.get_total_flops()


if __name__ == "__main__":
    if sys.argv[1:]:
        _answer(*sys.argv[1:])
    else:
        print(table(rows()))
