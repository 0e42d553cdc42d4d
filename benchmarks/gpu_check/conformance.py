"""2: values of the official implementation, compared on this device with the same tolerances as on a CPU."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator

import torch

from benchmarks.gpu_check.finding import Finding, holds


def run(device: torch.device) -> Iterator[Finding]:
    """Run the conformance tests on the device."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/conformance"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"FRANCA_DEVICE": device.type})
    for name, share, tensor in re.findall(r"^(\d\w+)\s+([\d.]+|inf|nan)\s+(\S+)$", done.stdout, re.MULTILINE):
        yield holds(f"conformance {name}", float(share) <= 1, f"{share} of the tolerance ({tensor})", "<= 1")
    last = done.stdout.strip().splitlines()[-1:] or [done.stderr.strip()[-200:]]
    yield holds("conformance tests", done.returncode == 0, last[0].strip("= "), "all pass")
    if done.returncode:
        print(done.stdout[-6000:], done.stderr[-2000:], file=sys.stderr)
