"""A small DVC project with the real params.yaml and trivial stages, and a Prefect server."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

DVC_YAML = """
stages:
  prepare:
    cmd: python stage.py prepare
    params: [prepare]
    deps: [data, stage.py]
    outs: [prepared]
  evaluate:
    cmd: python stage.py evaluate
    params: [evaluate]
    deps: [prepared]
    outs:
      - results/evaluate/results.json: {cache: false}
  register:
    cmd: python stage.py register
    params: [register]
    deps: [results/evaluate/results.json]
    outs:
      - results/register/receipt.json: {cache: false, persist: true}
"""

STAGE = """
import json, os, signal, subprocess, sys, time
from pathlib import Path
from ruamel.yaml import YAML

params = YAML(typ="safe").load(Path("params.yaml"))
folder = Path("results", sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
if sys.argv[1] == "prepare":
    if params["prepare"]["source"] == "endless":
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        print("pids", os.getpid(), child.pid, flush=True)
        child.wait()
    if params["prepare"]["source"] in ("stopped", "stuck", "waits"):
        runs = Path(os.environ["DVC_ROOT"], "runs")
        runs.mkdir(exist_ok=True)
        step = int((runs / "saved").read_text()) if (runs / "saved").exists() else 0
        def stop(*_):
            after = step + (params["prepare"]["source"] != "stuck")
            (runs / "saved").write_text(str(after))
            marker = {"stage": "prepare", "run": "prepare-1", "step": after}
            (runs / "requeue.json").write_text(json.dumps(marker))
            sys.exit(f"franca: stopped at step {after} of 2")
        (runs / "requeue.json").unlink(missing_ok=True)
        signal.signal(signal.SIGTERM, stop)
        print("step", step, flush=True)
        if step < 2 and params["prepare"]["source"] != "waits":
            os.kill(os.getpid(), signal.SIGTERM)
        if step < 1:
            time.sleep(600)
    print("packing", Path("data/images.txt").read_text(), flush=True)
    if params["prepare"]["source"] == "broken":
        sys.exit("prepare: broken: no image in it can be read")
    Path("prepared").write_text(params["prepare"]["source"])
elif sys.argv[1] == "evaluate":
    k = params["evaluate"]["knn_k"]
    row = {"benchmark": "knn", "split": "val", "metric": "top1", "n": 10}
    rows = [{"model": "franca", **row, "value": 70.0 + k, "low": 60.0, "high": 99.0},
            {"model": "raw_pixels", **row, "value": 40.0, "low": 39.5, "high": 40.5}]
    Path(folder, "results.json").write_text(json.dumps({"suite": {"confidence": 0.95}, "rows": rows}))
else:
    receipt = {"tracking_uri": os.environ["DVC_ROOT"], "model": "franca", "version": "3", "aliases": ["champion"],
               "decision": ["all gates hold"], "links": {"run": "http://127.0.0.1/run"}}
    Path(folder, "receipt.json").write_text(json.dumps(receipt))
"""


# Loops of Prefect's server that schedule, watch and clean up what no test here has.
UNUSED_SERVICES = ("FOREMAN", "LATE_RUNS", "SCHEDULER", "TRIGGERS", "CANCELLATION_CLEANUP", "REPOSSESSOR")

# One process for three commands: each start of DVC takes more than a second.
SET_UP = """
from dvc.cli import main
for command in ("init -q", "config cache.type copy", "add -q data"):
    assert main(command.split()) == 0, command
"""


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("template") / "project"
    (folder / "data").mkdir(parents=True)
    (folder / "data/images.txt").write_text("three images")
    (folder / "dvc.yaml").write_text(DVC_YAML)
    (folder / "stage.py").write_text(STAGE)
    (folder / ".gitignore").write_text("/data\n/prepared\n/results/register/\n")
    params = (ROOT / "params.yaml").read_text()
    (folder / "params.yaml").write_text(f"# What the tests run with.\n{params}")
    commit = "git -c user.name=tests -c user.email=tests@localhost commit -qm start"
    shell = f"git init -q && {sys.executable} -c '{SET_UP}' && git add -A && {commit}"
    subprocess.run(shell, shell=True, cwd=folder, check=True)
    return folder


@pytest.fixture
def project(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the project; the current folder."""
    folder = tmp_path / "project"
    shutil.copytree(template, folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="module")
def prefect_server() -> Iterator[None]:
    from prefect.testing.utilities import prefect_test_harness

    with pytest.MonkeyPatch.context() as patch:
        for service in UNUSED_SERVICES:
            patch.setenv(f"PREFECT_SERVER_SERVICES_{service}_ENABLED", "false")
        with prefect_test_harness(server_startup_timeout=300):
            yield
