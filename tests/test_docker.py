"""The files of docker/: what the images hold, how compose confines its services, and passwords from files."""

import os
import re
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from franca.params import read_yaml

ROOT = Path(__file__).parents[1]
DOCKER = ROOT / "docker"
COMPOSE = read_yaml(DOCKER / "compose.yaml")
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DIGEST = r"@sha256:[0-9a-f]{64}$"


def pins(text: str) -> dict[str, str]:
    return dict(re.findall(r"^([A-Za-z0-9_.-]+)==([^\s;\\]+)", text, re.MULTILINE))


def test_the_locks_of_the_images_agree() -> None:
    worker, server = (pins(path.read_text()) for path in (ROOT / "requirements.lock", DOCKER / "server.lock"))
    assert server and not {name: pin for name, pin in server.items() if worker.get(name, pin) != pin}
    assert not {"torch", "torchvision", "triton"} & server.keys()


def test_the_cpu_image_leaves_out_what_belongs_to_cuda() -> None:
    dockerfile = (DOCKER / "Dockerfile").read_text()
    torch = {"torch", "torchvision"}
    lock = ROOT / "requirements.lock"

    def run(command: str) -> str:
        found = re.search(rf"{command} '(.*)'", dockerfile)
        assert found
        return subprocess.run([*command.split(), found[1], lock], capture_output=True, text=True, check=True).stdout

    everything, kept = pins(lock.read_text()), run("sed -E")
    left_out = everything.keys() - pins(kept).keys()
    assert torch < left_out and all(re.match("torch|triton|cuda-|nvidia-", name) for name in left_out)
    assert not re.search("nvidia|^cuda|^triton", kept, re.MULTILINE)
    for entry in re.split(r"^(?=\w)", kept, flags=re.MULTILINE)[1:]:
        assert re.match(r"[\w.-]+==", entry) and "--hash=sha256:" in entry
    assert pins(run("sed -n -E")) == {name: everything[name] for name in torch}


def test_images_of_others_are_pinned_by_digest() -> None:
    (base,) = re.findall(r"^ARG PYTHON=(\S+)", (DOCKER / "Dockerfile").read_text(), re.MULTILINE)
    images = [service["image"] for service in SERVICES.values() if "build" not in service]
    assert images and all(re.search(DIGEST, image) for image in [base, *images])


@pytest.mark.parametrize("service", SERVICES)
def test_each_service_is_confined(service: str) -> None:
    settings = SERVICES[service]
    assert settings["read_only"] and settings["cap_drop"] == ["ALL"]
    assert settings["security_opt"] == ["no-new-privileges:true"]
    assert {"mem_limit", "cpus", "pids_limit", "init"} <= settings.keys()
    assert settings["logging"]["options"].keys() == {"max-size", "max-file"}
    assert "healthcheck" in settings or settings["restart"] == "no"
    for name, value in settings["environment"].items():
        if re.search("PASSWORD|SECRET|AUTH_STRING", name):
            assert name.endswith("_FILE") and value.removeprefix("/run/secrets/") in settings["secrets"], name


def test_the_worker_reaches_neither_database_nor_objects() -> None:
    storage = {name for name, service in SERVICES.items() if "storage" in service["networks"]}
    assert storage == {"db", "objects", "bucket", "mlflow", "prefect"} and COMPOSE["networks"]["storage"]["internal"]


def run_entrypoint(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [DOCKER / "entrypoint.sh", "env"],
        env={"PATH": os.environ["PATH"], "SECRETS": str(folder), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_passwords_come_from_files(tmp_path: Path) -> None:
    (tmp_path / "login").write_text("franca:a b$(id)'\"%40\\n\n")
    found = run_entrypoint(
        tmp_path, LOGIN_FILE=f"{tmp_path}/login", SSL_CERT_FILE="/etc/ssl/cert.pem", OTHER="x=/run/secrets/y"
    ).stdout.splitlines()
    assert "LOGIN=franca:a b$(id)'\"%40\\n" in found
    assert "SSL_CERT_FILE=/etc/ssl/cert.pem" in found and "OTHER=x=/run/secrets/y" in found
    assert not [line for line in found if line.startswith(("LOGIN_FILE=", "SSL_CERT="))]


@pytest.mark.parametrize("content", [None, ""])
def test_a_missing_password_is_one_line(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "login").write_text(content)
    done = run_entrypoint(tmp_path, LOGIN_FILE=f"{tmp_path}/login")
    assert done.returncode == 2 and not done.stdout
    assert re.fullmatch(rf"{tmp_path}/login: missing, empty or not readable for user \d+; .*secrets.sh\n", done.stderr)


def test_passwords_are_created_once(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"

    def create() -> dict[str, str]:
        environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "FRANCA_SECRETS": str(folder)}
        subprocess.run([DOCKER / "secrets.sh"], env=environment, check=True, capture_output=True)
        return {path.name: path.read_text() for path in folder.iterdir()}

    first = create()
    assert first.keys() == COMPOSE["secrets"].keys()
    assert len(set(first.values())) == len(first)
    assert all(re.fullmatch(r"(franca:)?[0-9a-f]{48}\n", text) for text in first.values())
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    (folder / "s3_password").unlink()
    second = create()
    assert {name for name in first if first[name] != second[name]} == {"s3_password"}
