"""A real server on the loopback: hostile clients, memory, reload and SIGTERM."""

import http.client
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from franca.params import Params, load_params
from franca.stages import register
from franca.tracking.client import connect, tracking_uri
from tests.serving.conftest import encoded, npy
from tests.tracking.conftest import REPOSITORY, Finish, wait_for
from tests.tracking.conftest import empty_database as empty_database
from tests.tracking.conftest import finish as finish
from tests.tracking.conftest import params as params
from tests.tracking.conftest import root as root

pytestmark = pytest.mark.slow

BODY, PIXELS = 4 << 20, 4_000_000
Serve = Callable[..., "Server"]


class Server:
    """A process of `franca serve`."""

    def __init__(self, process: "subprocess.Popen[bytes]", log: Path) -> None:
        self.process, self.log = process, log
        wait_for(lambda: bool(self._address()), seconds=180)
        self.port = int(self._address())

    def _address(self) -> str:
        assert self.process.poll() is None, self.log.read_text()
        found = re.search(r"running on http://127\.0\.0\.1:(\d+)", self.log.read_text())
        return found[1] if found else ""

    def post(self, path: str, body: Any, kind: str = "image/png") -> tuple[int, dict[str, Any]]:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", body, {"Content-Type": kind})
        try:
            with urllib.request.urlopen(request, timeout=180) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=30) as answer:
            return json.load(answer) if path != "/metrics" else answer.read().decode()

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)

    def memory(self) -> int:
        return int(psutil.Process(self.process.pid).memory_info().rss)


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    started = []

    def start(source: str, *options: str) -> Server:
        command = [sys.executable, "-m", "franca", "serve", source, "--port", "0", "--device", "cpu", *options]
        environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
        log = tmp_path_factory.mktemp("serve") / "log"
        with log.open("wb") as file:
            process = subprocess.Popen(command, env=environment, stdout=file, stderr=file)
        started.append(process)
        return Server(process, log)

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def server(serve: Serve, model_folder: Path) -> Server:
    """One process for several tests; the last of them ends it."""
    return serve(str(model_folder), "--max-bytes", str(BODY), "--max-pixels", str(PIXELS))


class Peak:
    """The most memory that a server has used in a `with` block, in bytes above the start."""

    def __init__(self, server: Server) -> None:
        self.server, self.bytes, self._end = server, 0, threading.Event()

    def __enter__(self) -> "Peak":
        self.start = self.server.memory()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._end.wait(0.02):
            self.bytes = max(self.bytes, self.server.memory() - self.start)

    def __exit__(self, *error: object) -> None:
        self._end.set()
        self._thread.join()


def send(server: Server, head: str, parts: Iterator[bytes]) -> bytes:
    """Send a request by hand, as far as the server takes it, and return what it answers."""
    with server.connect() as client:
        try:
            client.sendall(f"{head}\r\n\r\n".encode())
            for part in parts:
                client.sendall(part)
        except OSError:
            pass
        try:
            return client.recv(65536)
        except OSError:
            return b""


def zeros(count: int) -> Iterator[bytes]:
    return (bytes(1 << 20) for _ in range(count))


def chunks(count: int) -> Iterator[bytes]:
    yield from (b"100000\r\n" + bytes(1 << 20) + b"\r\n" for _ in range(count))


def bomb(side: int, mode: str = "RGBA") -> bytes:
    file = io.BytesIO()
    Image.new(mode, (side, side)).save(file, "PNG")
    return file.getvalue()


HEAD = "POST /embed HTTP/1.1\r\nHost: x\r\nContent-Type: image/png"


def test_hostile_clients_take_no_memory_and_no_service(server: Server) -> None:
    good = encoded()
    expected = server.post("/embed", good)[1]["embeddings"]
    with Peak(server) as peak:
        # 200 MB, announced and not, and a length that is a lie.
        send(server, f"{HEAD}\r\nContent-Length: {200 << 20}", zeros(200))
        send(server, f"{HEAD}\r\nTransfer-Encoding: chunked", chunks(200))
        send(server, f"{HEAD}\r\nContent-Length: 10", zeros(50))
        send(server, f"{HEAD}\r\nContent-Length: {1 << 70}", zeros(1))
        send(server, f"{HEAD}\r\nContent-Length: -1", zeros(1))
        # 20,000 x 20,000 pixels in 1.6 MB, an array that says it is large, wrong shapes, garbage.
        huge = bomb(20_000, "L")
        assert len(huge) < BODY
        status, answer = server.post("/embed", huge)
        assert status == 413 and "more than 4,000,000 pixels" in answer["detail"]
        for shape in ((1, 1, 1, 3_000_000), (3_000_000,), (1_000_000, 1, 3, 1)):
            status, _ = server.post("/embed", npy(np.zeros(shape, np.uint8)), "application/x-npy")
            assert status == 422
        send(server, "\x00\x01garbage", iter([os.urandom(100_000)]))
        send(server, "GET / HTTP/1.1\r\nX: " + "x" * 1_000_000, iter([]))
        # Half a request, and clients that send nothing or one byte at a time.
        send_half = [server.connect() for _ in range(40)]
        for client in send_half[:20]:
            client.sendall(f"{HEAD}\r\nContent-Length: 1000\r\n\r\nhalf".encode())
            client.close()
        for client in send_half[20:]:
            client.sendall(b"POST /embed HT")
        assert server.post("/embed", good)[1]["embeddings"] == expected
        for client in send_half[20:]:
            assert client.recv(100) == b"", "a connection without a request is closed"
            client.close()
    assert server.post("/embed", good)[1]["embeddings"] == expected
    assert server.process.poll() is None
    assert peak.bytes < 100 << 20, f"{peak.bytes >> 20} MiB"


def test_the_largest_allowed_images_at_once(server: Server) -> None:
    """Two are decoded at a time: 4 million pixels with alpha need 4 copies of 16 MB at most, and some of 12."""
    largest = bomb(2000)
    server.post("/embed", largest)
    statuses: list[int] = []
    with Peak(server) as peak:
        threads = [
            threading.Thread(target=lambda: statuses.append(server.post("/embed", largest)[0])) for _ in range(24)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert set(statuses) <= {200, 503} and statuses.count(200) >= 16
    assert peak.bytes < 250 << 20, f"{peak.bytes >> 20} MiB"


def test_slow_bodies_leave_places_after_a_while(server: Server) -> None:
    slow = [server.connect() for _ in range(16)]
    for client in slow:
        client.sendall(f"{HEAD}\r\nContent-Length: 1000\r\n\r\n".encode())
    wait_for(lambda: server.post("/embed", encoded())[0] == 503, seconds=10)
    assert server.get("/health/live") == {"status": "live"}
    wait_for(lambda: server.post("/embed", encoded())[0] == 200, seconds=40)
    assert b" 408 " in slow[0].recv(1000)
    for client in slow:
        client.close()


def test_sigterm_answers_what_has_begun(server: Server) -> None:
    """Ends the server of the tests above."""
    content = encoded()
    client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    client.putrequest("POST", "/embed")
    client.putheader("Content-Length", str(len(content)))
    client.endheaders(content[:50])
    wait_for(lambda: "franca_active_requests 1.0" in server.get("/metrics"), seconds=30)
    server.process.send_signal(signal.SIGTERM)
    time.sleep(1)
    with pytest.raises(OSError):
        server.connect()
    client.send(content[50:])
    assert client.getresponse().status == 200
    assert server.process.wait(30) in (0, -signal.SIGTERM)


def test_a_reload_loses_no_request(finish: Finish, params: Params, serve: Serve) -> None:
    """The alias moves while eight clients ask; every answer is of one of the two versions."""
    digests = []
    for seed in (0, 1):
        finish(seed=seed, knn=70 + 10 * seed)
        register.run(params)
        digests.append(json.loads(Path("results/register/receipt.json").read_text())["digest"])
    client = connect()
    client.set_registered_model_alias("franca", "champion", "1")
    server = serve("models:/franca@champion")
    assert server.get("/version")["version"] == "1"
    answers: list[tuple[int, str, str]] = []
    end = threading.Event()

    def ask() -> None:
        while not end.is_set():
            status, content = server.post("/embed", encoded())
            answers.append((status, content.get("version", ""), content.get("digest", "")))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    try:
        client.set_registered_model_alias("franca", "champion", "2")
        wait_for(lambda: server.get("/version")["version"] == "2", seconds=120)
        time.sleep(1)
    finally:
        end.set()
        for thread in threads:
            thread.join()
    assert set(answers) == {(200, "1", digests[0]), (200, "2", digests[1])}
    assert "franca_reloads_total 1.0" in server.get("/metrics")

    # A version with changed files is not loaded; the present one goes on.
    place = Path(str(client.get_model_version("franca", "1").source).removeprefix("models:/"))
    (weights,) = [path for path in Path("mlartifacts").rglob("model.safetensors") if place.name in str(path)]
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    client.set_registered_model_alias("franca", "champion", "1")
    wait_for(lambda: "franca_failed_reloads_total 1.0" in server.get("/metrics"), seconds=120)
    assert server.post("/embed", encoded())[1]["version"] == "2"
    assert tracking_uri().startswith("sqlite") and load_params(Path("params.yaml"))
