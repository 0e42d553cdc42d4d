"""`python -m benchmarks` (make bench) runs all benchmarks, prints their tables and writes them to `RESULTS.md`."""

import importlib
import os
import platform
import subprocess
from pathlib import Path

import torch

from benchmarks.tables import table
from franca.files import write_bytes

NAMES = ("crops", "heads", "loader", "step")
RESULTS = Path(__file__).with_name("RESULTS.md")


def machine() -> str:
    """Return in one line what the figures depend on."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return (
        f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, {os.cpu_count()} cores, {device};"
        f" Python {platform.python_version()}, torch {torch.__version__}; commit {commit}"
    )


def main() -> None:
    """Run all benchmarks and write `RESULTS.md`."""
    text = f"# Benchmarks\n\nWritten by `make bench` on {machine()}.\n"
    for name in NAMES:
        module = importlib.import_module(f"benchmarks.{name}")
        about = str(module.__doc__).split("\n")[0]
        text += f"\n## {name}\n\n{about}\n{table(module.rows())}\n"
        write_bytes(RESULTS, text.encode())
    print(text)


if __name__ == "__main__":
    main()
