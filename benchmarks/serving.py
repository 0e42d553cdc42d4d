"""Load on `franca serve`: requests per second and latency of one image and of 32 a request.

`python -m benchmarks.serving [MODEL]` starts a server on the loopback and writes benchmarks/SERVING.md.
"""

import http.client
import io
import os
import platform
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
import torch
from PIL import Image

PAGE = Path(__file__).with_name("SERVING.md")
SECONDS = 10.0
CLIENTS = (1, 4, 16)


class Load(NamedTuple):
    """One line of the table."""

    what: str
    clients: int
    requests: float
    images: float
    p50: float
    p99: float
    refused: int
    memory: int


def body_of(kind: str, count: int) -> tuple[bytes, str]:
    """Return a request of photo-like noise, 640 x 480, as a JPEG, or as arrays that need no decoding."""
    image = Image.effect_noise((160, 120), 60).resize((640, 480)).convert("RGB")
    file = io.BytesIO()
    if kind == "JPEG":
        image.save(file, "JPEG", quality=90)
        return file.getvalue(), "image/jpeg"
    np.save(file, np.stack([np.asarray(image.resize((224, 224)))] * count))
    return file.getvalue(), "application/x-npy"


@contextmanager
def server(model: str) -> Iterator[tuple[int, psutil.Process]]:
    """Start a server and yield its port and process."""
    with tempfile.TemporaryFile() as log:
        command = [sys.executable, "-m", "franca", "serve", model, "--port", "0"]
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            while True:
                if process.poll() is not None:
                    log.seek(0)
                    raise SystemExit(log.read().decode())
                # pread leaves the position alone, at which the server writes.
                text = os.pread(log.fileno(), 1 << 16, 0).decode()
                if found := re.search(r"running on http://127\.0\.0\.1:(\d+)", text):
                    break
                time.sleep(0.1)
            yield int(found[1]), psutil.Process(process.pid)
        finally:
            process.terminate()
            process.wait()


def measure(port: int, process: psutil.Process, what: str, body: bytes, kind: str, images: int, clients: int) -> Load:
    """Send requests from threads, each with a connection of its own, and measure them."""
    seconds: list[float] = []
    refused, end = [], time.perf_counter() + SECONDS

    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        headers = {"Content-Type": kind, "Accept": "application/x-npy"}
        while time.perf_counter() < end:
            start = time.perf_counter()
            connection.request("POST", "/embed", body, headers)
            answer = connection.getresponse()
            answer.read()
            if answer.status == 200:
                seconds.append(time.perf_counter() - start)
            else:
                refused.append(answer.status)
                connection.close()
        connection.close()

    threads = [threading.Thread(target=client) for _ in range(clients)]
    begin = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rate = len(seconds) / (time.perf_counter() - begin)
    p50, p99 = np.quantile(seconds, [0.5, 0.99])
    memory = process.memory_info().rss
    return Load(what, clients, rate, rate * images, 1000 * p50, 1000 * p99, len(refused), memory >> 20)


def main(model: str) -> None:
    """Measure and write the page."""
    loads = []
    with server(model) as (port, process):
        for kind, count, what in (("JPEG", 1, "one JPEG"), ("npy", 1, "one array"), ("npy", 32, "32 arrays")):
            body, content = body_of(kind, count)
            measure(port, process, what, body, content, count, 1)  # warm
            for clients in CLIENTS:
                loads.append(measure(port, process, what, body, content, count, clients))
                print(loads[-1], flush=True)
    PAGE.write_text(page(model, loads))


def page(model: str, loads: list[Load]) -> str:
    """Return the page."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} CPU threads"
    rows = [
        f"| {load.what} | {load.clients} | {load.requests:.1f} | {load.images:.1f} | {load.p50:.0f} | {load.p99:.0f} |"
        f" {load.refused} | {load.memory} |"
        for load in loads
    ]
    about = f"Python {platform.python_version()} and PyTorch {torch.__version__}, on {device}"
    return f"""# Load

Written by `python -m benchmarks.serving`, for {model}, with {about}.
The load average was {os.getloadavg()[0]:.1f} at the end; above the number of threads, other programs had a part of the
processor. Each line is {SECONDS:g} s of `POST /embed` on the loopback, from clients on the same machine. JPEGs have
640 x 480 pixels, arrays 224 x 224 and no compression.

| request | clients | requests / s | images / s | p50, ms | p99, ms | refused | memory, MiB |
| --- | --- | --- | --- | --- | --- | --- | --- |
{chr(10).join(rows)}
"""


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "models/franca")
