"""`python -m benchmarks.gpu_check [GROUP ...]` runs all groups of checks, or some, each in a separate process.

At the end it prints the card, the versions and one table, and writes the table to `results.json` in `--output`. The
exit code is 1 if a check failed. Without a GPU it runs the checks that a CPU can run, at small sizes, and lists the
others. It needs no MLflow, DVC, Prefect or network.
"""

import argparse
import dataclasses
import importlib
import json
import os
import platform
import subprocess
import sys
import time
from collections import Counter
from importlib import metadata
from pathlib import Path

import torch

from benchmarks.gpu_check.finding import Finding, holds
from benchmarks.tables import table
from franca.files import write_json

GROUPS = (
    "machine",
    "conformance",
    "parity",
    "syncs",
    "compiled",
    "stage",
    "groups",
    "heads",
    "evaluation",
    "throughput",
    "feeding",
)
GROUP_SECONDS = 300


def main() -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_check", description=__doc__)
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"default: {' '.join(GROUPS)}")
    parser.add_argument("--output", type=Path, default=Path("gpu_check"), metavar="FOLDER", help="default: gpu_check")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if unknown := set(arguments.groups) - set(GROUPS):
        parser.error(f"unknown group {', '.join(sorted(unknown))}; groups are {', '.join(GROUPS)}")
    arguments.output.mkdir(parents=True, exist_ok=True)
    if arguments.inside:
        return _inside(arguments.groups[0], arguments.output)
    findings = {group: _outside(group, arguments.output) for group in arguments.groups or GROUPS}
    rows = [{"group": group, **dataclasses.asdict(finding)} for group, found in findings.items() for finding in found]
    write_json(arguments.output / "results.json", rows)
    verdicts = Counter(row["verdict"] for row in rows)
    print(f"\n{_machine()}\n{', '.join(f'{count} {verdict}' for verdict, count in verdicts.most_common())}")
    print(table(rows), flush=True)
    return 1 if verdicts["FAIL"] else 0


def _machine() -> str:
    """Return the card and versions in one line."""
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "torchvision", "timm"))
    card = f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}" if torch.cuda.is_available() else "no GPU"
    return f"{card}, {os.cpu_count()} CPUs, Python {platform.python_version()}, {versions}"


def _outside(group: str, output: Path) -> list[Finding]:
    """Run one group in a new process and return its findings, even if it crashes or hangs."""
    path = output / f"{group}.jsonl"
    path.unlink(missing_ok=True)
    start = time.monotonic()
    command = [sys.executable, "-m", "benchmarks.gpu_check", group, "--inside", "--output", str(output)]
    environment = os.environ | {"FRANCA_GPU_CHECK_OUTPUT": str(output.resolve())}
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        code = process.wait(GROUP_SECONDS)
        ending = holds(f"{group} ends", code == 0, f"exit code {code}", "0")
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        process.wait()
        ending = holds(f"{group} ends", False, f"stopped after {GROUP_SECONDS} s", "0")
    lines = path.read_text().splitlines() if path.exists() else []
    findings = [Finding(**json.loads(line)) for line in lines]
    print(f"{group}: {len(findings)} findings in {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    return findings if ending.verdict == "pass" else [*findings, ending]


def _inside(group: str, output: Path) -> int:
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    with (output / f"{group}.jsonl").open("a", encoding="utf-8") as file:
        for finding in importlib.import_module(f"benchmarks.gpu_check.{group}").run(device):
            print(f"{finding.verdict:9} {finding.check}: {finding.value} {finding.limit}", file=sys.stderr, flush=True)
            print(json.dumps(dataclasses.asdict(finding)), file=file, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
