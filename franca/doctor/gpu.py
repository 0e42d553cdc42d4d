"""GPUs by `nvidia-smi`: driver, memory, and whether torch can use them. Importing torch would take seconds."""

import re
import subprocess
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from franca.doctor.finding import Finding, ok, problem, warning

CHECK = "GPU"
SECONDS = 5.0
USED_SHARE = 0.1
"""Share of a GPU's memory that is taken, above which a run may not fit."""
_QUERY = [
    "nvidia-smi",
    "--query-gpu=index,name,driver_version,memory.total,memory.used",
    "--format=csv,noheader,nounits",
]


def check_gpu() -> Iterator[Finding]:
    """Yield a finding for each GPU, and one if torch cannot use them."""
    try:
        found = subprocess.run(_QUERY, capture_output=True, text=True, timeout=SECONDS, check=False)
    except FileNotFoundError:
        yield ok(CHECK, "no NVIDIA driver here; training uses the CPU")
        return
    except (OSError, subprocess.TimeoutExpired):
        yield problem(CHECK, f"nvidia-smi does not answer within {SECONDS:g} s", "restart the machine or its driver")
        return
    lines = [line for line in found.stdout.splitlines() if line.strip()]
    if found.returncode or not lines:
        reason = (found.stdout + found.stderr).strip().partition("\n")[0] or "it lists none"
        yield problem(CHECK, f"nvidia-smi: {reason}", "check the driver, and `--gpus all` of a container")
        return
    yield from map(_memory, lines)
    yield from _torch()


def _memory(line: str) -> Finding:
    index, name, driver, total, used = (part.strip() for part in line.split(","))
    check, text = f"{CHECK} {index}", f"{name}, driver {driver}"
    if not (total.isdigit() and used.isdigit()):  # "[N/A]", for memory that is shared with the CPU
        return ok(check, text)
    text += f", {int(total) / 1024:.0f} GiB"
    if int(used) > USED_SHARE * int(total):
        return warning(check, f"{text}, of which {int(used) / 1024:.1f} GiB are taken", "`nvidia-smi` shows by whom")
    return ok(check, f"{text}, free")


def _torch() -> Iterator[Finding]:
    """Yield a finding if torch is built without CUDA, or for a newer one than the driver has."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return
    text = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
    built = re.search(r"^cuda[^=]*= '(\d+)", text, re.MULTILINE)
    if built is None:
        fix = "`pip install --require-hashes --no-deps -r requirements.lock`"
        yield problem("CUDA", "torch is the build for CPUs, which leaves the GPU unused", fix)
        return
    shown = subprocess.run(["nvidia-smi"], capture_output=True, text=True, timeout=SECONDS, check=False).stdout
    driver = re.search(r"CUDA Version:\s*(\d+)", shown)
    if driver and int(driver[1]) < int(built[1]):
        yield problem("CUDA", f"torch needs CUDA {built[1]}, and the driver has {driver[1]}", "update the driver")
