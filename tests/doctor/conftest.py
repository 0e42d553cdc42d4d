"""A project as a clone has it, and servers that answer as a test wants."""

import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from time import time
from typing import Any

import pytest

from tests.conftest import MakeValues

Serve = Callable[..., str]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_values: MakeValues) -> Path:
    """A git repository with a parameter file and no server; the current folder."""
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("DVC_ROOT", str(folder))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL", "PREFECT_API_AUTH_STRING", "PREFECT_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("USERNAME", "PASSWORD", "TOKEN"):
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}", raising=False)
    (folder / "params.yaml").write_text(json.dumps(tiny_values()))
    git("init", "-q")
    git("config", "user.name", "tests")
    git("config", "user.email", "tests@localhost")
    git("add", "-A")
    git("commit", "-qm", "start")
    return folder


def git(*arguments: str) -> None:
    subprocess.run(["git", *arguments], check=True)


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start a server whose clock is `ahead`, and return its address; a path without answer is status 404."""
    servers = []

    def start(answers: dict[str, Any], ahead: float = 0.0, status: int = 200) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                found = self.path.partition("?")[0] in answers
                content = answers.get(self.path.partition("?")[0], "")
                if callable(content):
                    content = content(self.headers)
                body = content.encode() if isinstance(content, str) else json.dumps(content).encode()
                self.send_response_only(status if found else 404)
                self.send_header("Date", formatdate(time() + ahead, usegmt=True))
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                self.do_GET()

            def log_message(self, *arguments: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        servers.append(server)
        return f"127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
