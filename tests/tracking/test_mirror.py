"""The mirror as a child process of a trainer, with a real database or server."""

import subprocess
import sys
from pathlib import Path

import pytest

from franca.files import write_json
from franca.params import load_params
from franca.tracking.client import connect, experiment_id
from tests.tracking.conftest import REPOSITORY, Server, wait_for, write_lines

TRAINER = "import sys, time, pathlib; from franca.tracking import mirror; from franca.params import load_params; "
TRAINER += "p = mirror.start(pathlib.Path(sys.argv[1]), load_params(pathlib.Path('params.yaml')));"


@pytest.fixture
def folder(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    folder = root / "runs/pretrain-abc"
    write_lines(folder, range(3))
    return folder


def trainer(folder: Path, code: str) -> "subprocess.Popen[str]":
    """Start a process that starts the mirror and then runs `code`."""
    command = [sys.executable, "-c", TRAINER + code, str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def all_sent(folder: Path) -> bool:
    memory, size = folder / "mirror.json", (folder / "metrics.jsonl").stat().st_size
    return memory.is_file() and f'"offset": {size},' in memory.read_text()


def alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def statuses() -> list[str]:
    client = connect()
    return [run.info.status for run in client.search_runs([experiment_id(client, "franca")])]


def test_sends_everything_and_ends_after_the_trainer_has_finished(folder: Path) -> None:
    parent = trainer(folder, "print(p.wait(), 'mlflow' in sys.modules, 'torch' in sys.modules)")
    wait_for(lambda: all_sent(folder))
    write_lines(folder, range(3, 6))
    (folder / "finished").touch()
    assert parent.communicate(timeout=60)[0].split() == ["0", "False", "False"]
    assert all_sent(folder)
    assert statuses() == ["FINISHED"]


def test_ends_with_a_trainer_that_is_killed(folder: Path) -> None:
    parent = trainer(folder, "print(p.pid, flush=True); time.sleep(600)")
    assert parent.stdout
    mirror = int(parent.stdout.readline())
    wait_for(lambda: all_sent(folder))
    parent.kill()
    parent.communicate()
    wait_for(lambda: not alive(mirror))
    assert statuses() == ["KILLED"]


def test_a_killed_run_says_what_it_was(folder: Path, root: Path) -> None:
    identity = ["-c", "user.name=n", "-c", "user.email=e"]
    for command in (["init", "-q"], ["add", "params.yaml"], [*identity, "commit", "-qm", "first"]):
        subprocess.run(["git", *command], cwd=root, check=True)
    with (root / "params.yaml").open("a") as file:
        file.write("# changed\n")
    write_json(folder / "run.json", {"host": "here", "threads": 1})
    parent = trainer(folder, "time.sleep(600)")
    wait_for(lambda: all_sent(folder))
    parent.kill()
    parent.communicate()
    wait_for(lambda: statuses() == ["KILLED"])
    client = connect()
    (run,) = client.search_runs([experiment_id(client, "franca")])
    tags, params = run.data.tags, run.data.params
    assert tags["franca.state"] == "stopped at step 2"
    assert run.info.run_name.startswith("eurosat, ViT ") and run.info.run_name.endswith(" epochs (abc)")
    assert "Not registered" in tags["mlflow.note.content"]
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, check=True, capture_output=True, text=True)
    assert tags["mlflow.source.git.commit"] == tags["franca.train.commit"] == head.stdout.strip()
    assert (tags["franca.git.pushed"], tags["franca.data.remote"], tags["franca.run.host"]) == (
        "false",
        "none",
        "here",
    )
    assert "mlflow.source.git.repoURL" not in tags
    assert params["pretrain.epochs"] == "8.0" and "evaluate.knn_k" not in params
    copy = Path(client.download_artifacts(run.info.run_id, ".", str(root)))
    assert load_params(copy / "params.yaml") == load_params(root / "params.yaml")
    assert "+# changed" in (copy / "lineage/code.diff").read_text()
    assert "torch==" in (copy / "lineage/packages.txt").read_text()


def test_is_left_out_where_mlflow_is_not_installed(folder: Path) -> None:
    code = (
        "sys.modules['mlflow'] = None; from franca.tracking import mirror; from franca.params import load_params;"
        " print(mirror.start(pathlib.Path('.'), load_params(pathlib.Path('params.yaml'))))"
    )
    command = [sys.executable, "-c", f"import sys, pathlib; {code}"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "None\n"


@pytest.mark.slow
def test_survives_a_restart_of_the_server(folder: Path, server: Server) -> None:
    parent = trainer(folder, "print(p.wait())")
    try:
        wait_for(lambda: all_sent(folder))
        server.kill()
        write_lines(folder, range(3, 6))
        wait_for(lambda: "connection refused" in (folder / "mirror.log").read_text())
        assert not all_sent(folder)
        assert parent.poll() is None
        server.start()
        wait_for(lambda: all_sent(folder))
        (folder / "finished").touch()
        assert parent.communicate(timeout=60)[0] == "0\n"
        client = connect()
        (run,) = client.search_runs([experiment_id(client, "franca")])
        history = client.get_metric_history(run.info.run_id, "train/loss")
        assert sorted(metric.step for metric in history) == [0, 1, 2, 3, 4, 5]
        assert run.info.status == "FINISHED"
    finally:
        parent.kill()
