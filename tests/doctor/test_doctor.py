"""`franca doctor`: what it finds, what it says to do, and what it never says."""

import json
import os
import socket
import sys
import time
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

from franca.cli import main
from franca.doctor import disk
from franca.doctor.data import check_data
from franca.doctor.doctor import line, without_login
from franca.doctor.dvc_remotes import check_remotes
from franca.doctor.finding import Finding, ok
from franca.doctor.git_state import check_git
from franca.doctor.gpu import check_gpu
from franca.doctor.locks import check_locks
from franca.doctor.mlflow_server import check_mlflow
from franca.doctor.packages import check_packages, read_lock
from franca.doctor.prefect_server import check_prefect
from franca.process import lock_folder
from tests.doctor.conftest import Serve, git

FIND = "/api/2.0/mlflow/experiments/search"
MLFLOW = {"/version": metadata.version("mlflow"), FIND: {}}
PREFECT = {
    "/api/admin/version": metadata.version("prefect"),
    "/api/admin/settings": {"server": {"concurrency": {"lease_storage": "a.filesystem"}}},
    "/api/work_pools/cpu/workers/filter": [{"name": "one"}],
    "/api/flow_runs/count": 0,
}


def lines(found: Iterable[Finding]) -> str:
    return "\n".join(map(line, found))


def test_a_new_project_without_servers_has_no_problem(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    for start in ("ok       MLflow: no server set", "ok       Prefect: no server set", "ok       params: params.yaml"):
        assert start in out
    assert "problem" not in out
    assert not list(project.glob("*.db")) and not (project / "runs").exists(), "it changes nothing"


def test_a_problem_is_exit_code_1_and_has_a_fix(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "params.yaml").write_text("base: 3\n")
    assert main(["doctor", "--json"]) == 1
    captured = capsys.readouterr()
    found = {entry["check"]: entry for entry in json.loads(captured.out)}
    assert found["params"]["level"] == "problem" and "params check" in found["params"]["fix"]
    assert captured.err.startswith("franca: doctor: 1 problem;")


def test_outside_of_any_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, project: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    shown = lines([*check_git(tmp_path), *check_remotes(tmp_path), *check_data(tmp_path), *check_packages(tmp_path)])
    assert "warning  git: not a repository" in shown and "warning  DVC: not set up" in shown
    assert "problem" not in shown


def test_servers_that_answer(project: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://{serve(MLFLOW)}")
    monkeypatch.setenv("PREFECT_API_URL", f"http://{serve(PREFECT)}/api/")
    found = [*check_mlflow(), *check_prefect()]
    assert {finding.level for finding in found} == {"ok"}, lines(found)
    assert {"clock (MLflow)", "clock (Prefect)", "worker", "Prefect's leases"} <= {finding.check for finding in found}


def test_dead_and_silent_servers_take_seconds_only(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, socket.create_server(("127.0.0.1", 0)) as dead:
        port = dead.getsockname()[1]
        dead.close()
        monkeypatch.setattr("franca.web.SECONDS", 0.3)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{silent.getsockname()[1]}/api")
        begin = time.monotonic()
        shown = lines([*check_mlflow(), *check_prefect()])
        assert time.monotonic() - begin < 5
    assert f"problem  MLflow: http://127.0.0.1:{port}: connection refused; start the server" in shown
    assert "no answer within" in shown


def test_passwords_are_sent_and_never_printed(project: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str] = []

    def note(headers: dict[str, str]) -> str:
        sent.append(headers["Authorization"])
        return "{}"

    place = serve({**MLFLOW, FIND: note})
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://ann:s3cr%40t@{place}")
    monkeypatch.setenv("PREFECT_API_URL", f"http://bob:hidden@{place}/api")
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "bob:hidden")
    (project / ".dvc").mkdir()
    (project / ".dvc/config").write_text(f"['remote \"store\"']\nurl = http://eve:pass@{place}/files\n")
    shown = lines(map(without_login, [*check_mlflow(), *check_prefect(), *check_remotes(project)]))
    assert sent == ["Basic YW5uOnMzY3JAdA=="]
    assert not any(word in shown for word in ("s3cr", "hidden", "eve", "ann:", "bob"))
    assert without_login(ok("x", "at http://u:p@h/ and\nhttp://v:q@i")).text == "at http://h/ and http://i"


@pytest.mark.parametrize(
    ("answers", "status", "ahead", "expected"),
    [
        ({"/version": "9.0.0"}, 200, 0, "warning  MLflow: http://HOST: version 9.0.0, and"),
        ({}, 401, 0, "problem  MLflow: http://HOST: does not accept user and password; set MLFLOW_TRACKING_USERNAME"),
        ({}, 403, 0, "problem  MLflow: http://HOST: refuses this user or this host name; add this name"),
        ({}, 500, 0, "problem  MLflow: http://HOST: status 500"),
        ({}, 200, 30, "warning  clock (MLflow): 30 s ahead of this machine's"),
        ({}, 200, -3600, "problem  clock (MLflow): 3600 s behind this machine's"),
    ],
)
def test_faults_of_the_tracking_server(
    answers: dict[str, str],
    status: int,
    ahead: float,
    expected: str,
    project: Path,
    serve: Serve,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = serve({**MLFLOW, **answers}, ahead, status)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://{place}")
    assert expected.replace("HOST", place) in lines(check_mlflow())


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ({"/api/admin/version": "2.9.0"}, "warning  Prefect: http://HOST/api: version 2.9.0, and"),
        ({"/api/admin/settings": {"server": {"concurrency": {"lease_storage": "a.memory"}}}}, "running flows crash"),
        ({"/api/work_pools/cpu/workers/filter": []}, "warning  worker: none is online; 0 runs late; `make worker`"),
        ({"/api/flow_runs/count": lambda headers: "2"}, "warning  worker: 1 online, and 2 runs late"),
        ({"/api/admin/settings": "<html>"}, "check PREFECT_API_URL: it ends in /api"),
    ],
)
def test_faults_of_the_prefect_server(
    answers: dict[str, object], expected: str, project: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = serve({**PREFECT, **answers})
    monkeypatch.setenv("PREFECT_API_URL", f"http://{place}/api")
    assert expected.replace("HOST", place) in lines(check_prefect())


def test_the_server_of_prefects_active_profile_is_asked(
    project: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = serve(PREFECT)
    home = Path(os.environ["PREFECT_HOME"])
    home.mkdir()
    (home / "profiles.toml").write_text(
        f'active = "team"\n[profiles.other]\n[profiles.team]\nPREFECT_API_URL = "http://{place}/api"\n'
    )
    assert f"ok       Prefect: http://{place}/api: version" in lines(check_prefect())
    monkeypatch.setenv("PREFECT_PROFILE", "other")
    assert "no server set" in lines(check_prefect())


def test_git(project: Path) -> None:
    assert lines(check_git(project)).startswith("ok       git: commit ")
    (project / "params.yaml").write_text("changed")
    git("config", "--unset", "user.email")
    lock = project / ".git/index.lock"
    lock.touch()
    os.utime(lock, (0, 0))
    shown = lines(check_git(project))
    assert "with 1 changed file;" in shown and "git identity: no user.email;" in shown
    assert f"problem  git lock: index.lock was left by a process that died; git refuses to write; `rm {lock}`" in shown


def test_a_checkout_of_another_user(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")  # git's own switch for this
    (found,) = check_git(project)
    assert found.level == "problem" and f"safe.directory {project}`" in found.fix


def test_data(project: Path) -> None:
    (project / "data.dvc").write_text("outs:\n- {path: data, md5: x.dir, nfiles: 2, size: 5}\n")
    assert "problem  data: data: not here; `dvc pull data.dvc`" in lines(check_data(project))
    (project / "data/deep").mkdir(parents=True)
    (project / "data/one").write_text("12")
    assert "warning  data: data: 1 files" in lines(check_data(project))
    (project / "data/deep/two").write_text("345")
    assert "ok       data: data: 2 files as in data.dvc" in lines(check_data(project))
    (project / "data.dvc").write_text("outs: 3\n")
    assert "`git checkout data.dvc`" in lines(check_data(project))


def test_remotes(project: Path) -> None:
    (project / ".dvc/store").mkdir(parents=True)
    with socket.create_server(("127.0.0.1", 0)) as live:
        port = live.getsockname()[1]
        (project / ".dvc/config").write_text(
            "['remote \"here\"']\nurl = store\n['remote \"gone\"']\nurl = /no/such/folder\n"
            f"['remote \"bucket\"']\nurl = s3://name/path\nendpointurl = http://127.0.0.1:{port}\n"
        )
        (project / ".dvc/config.local").write_text("['remote \"web\"']\nurl = http://127.0.0.1:1/files\n")
        found = {finding.check: finding for finding in check_remotes(project)}
    assert found["DVC remote here"].level == "ok"
    assert "no such folder" in found["DVC remote gone"].text and found["DVC remote gone"].level == "problem"
    assert "accepts connections" in found["DVC remote bucket"].text or "dvc-s3" in found["DVC remote bucket"].fix
    assert "connection refused" in found["DVC remote web"].text


def test_locks(project: Path) -> None:
    assert "nothing works" in lines(check_locks(project))
    (project / ".dvc/tmp").mkdir(parents=True)
    holder = {"pid": os.getpid(), "cmd": "dvc repro"}
    dead = {"pid": 2**22 + 1, "cmd": "dvc repro"}
    (project / ".dvc/tmp/rwlock").write_text(json.dumps({"write": {"/a": holder}, "read": {"/b": [dead]}}))
    with lock_folder(project / "runs/pretrain-1"):
        shown = lines(check_locks(project))
    assert f"process {os.getpid()} works in runs/pretrain-1" in shown
    assert f"DVC works here (process {os.getpid()})" in shown
    (project / "runs/requeue.json").write_text("{}")
    assert "warning  locks: a stage was stopped" in lines(check_locks(project))


@pytest.mark.parametrize(("free", "level"), [(100 << 20, "problem"), (5 << 30, "warning"), (500 << 30, "ok")], ids=str)
def test_disk(free: int, level: str, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda folder: SimpleNamespace(free=free, total=1 << 40))
    assert [finding.level for finding in disk.check_disk(project, None) if finding.check == "disk"] == [level]


def test_a_folder_that_cannot_be_written(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "runs").mkdir()
    monkeypatch.setattr(disk.os, "access", lambda folder, mode: folder.name != "runs")  # root may write anywhere
    (found,) = (finding for finding in disk.check_disk(project, None) if finding.check == "permissions")
    assert found.level == "problem" and "chown" in found.fix and str(project / "runs") in found.text


SMI = """#!{python}
import sys
if len(sys.argv) > 1:
    print("0, NVIDIA H100 80GB HBM3, 570.86.10, 81559, {used}")
else:
    print("| NVIDIA-SMI 570.86.10    Driver Version: 570.86.10    CUDA Version: {cuda} |")
sys.exit({code})
"""


@pytest.mark.parametrize(
    ("used", "cuda", "code", "expected"),
    [
        (1, "99.0", 0, "ok       GPU 0: NVIDIA H100 80GB HBM3, driver 570.86.10, 80 GiB, free"),
        (
            70000,
            "99.0",
            0,
            "warning  GPU 0: NVIDIA H100 80GB HBM3, driver 570.86.10, 80 GiB, of which 68.4",
        ),
        (1, "1.0", 0, "problem  CUDA: torch"),
        (1, "99.0", 9, "problem  GPU: nvidia-smi: 0, NVIDIA"),
    ],
)
def test_gpus(used: int, cuda: str, code: int, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(SMI.format(python=sys.executable, used=used, cuda=cuda, code=code))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert expected in lines(check_gpu())


def test_no_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert lines(check_gpu()).startswith("ok       GPU: no NVIDIA driver")


def test_packages(project: Path) -> None:
    here = metadata.version("numpy")
    (project / "requirements.lock").write_text(
        f"numpy=={here} \\\n    --hash=sha256:00\nnosuchpackage==1.0 ; python_full_version < '3.0' \\\n"
    )
    assert "ok       packages: 1 as in requirements.lock" in lines(check_packages(project))
    (project / "requirements.lock").write_text("numpy==0.1\nnosuchpackage==1.0\n")
    shown = lines(check_packages(project))
    assert "problem  packages: not installed: nosuchpackage; `make demo`" in shown
    assert f"warning  packages: of other versions than in requirements.lock: numpy {here} (not 0.1)" in shown


def test_the_projects_own_lock_is_read() -> None:
    locked = read_lock(Path(__file__).parents[2] / "requirements.lock")
    assert len(locked) > 200 and {"torch", "mlflow", "prefect", "dvc"} <= locked.keys()


def test_a_check_that_fails_hides_no_other(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise ZeroDivisionError("no")

    monkeypatch.setattr("franca.doctor.doctor.check_gpu", fail)
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "problem  GPU: the check itself failed (ZeroDivisionError: no)" in out and "ok       git: commit" in out


@pytest.mark.server
def test_real_servers(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.settings import PREFECT_API_URL
    from prefect.testing.utilities import prefect_test_harness

    from tests.tracking.conftest import Server

    tracking = Server()
    try:
        tracking.start()
        with prefect_test_harness(server_startup_timeout=240):
            monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking.uri)
            monkeypatch.setenv("PREFECT_API_URL", str(PREFECT_API_URL.value()))
            shown = lines([*check_mlflow(), *check_prefect()])
    finally:
        tracking.kill()
    assert f"ok       MLflow: {tracking.uri}: version" in shown and "ok       clock (MLflow)" in shown
    assert "ok       Prefect: http" in shown and "ok       clock (Prefect)" in shown
    assert "warning  worker: the server has no work pool 'cpu'" in shown and "Prefect's leases: " in shown
