"""A registered version behind HTTP, as `mlflow models serve` puts it there."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from franca.models import load_model
from franca.params import Params
from franca.stages import register
from franca.tracking.client import tracking_uri
from tests.tracking.conftest import REPOSITORY, Finish, wait_for

SIDE = 16


@pytest.fixture
def served(finish: Finish, params: Params) -> Iterator[str]:
    """The address of a server of the champion, which is `models/franca` in the current folder."""
    finish()
    register.run(params)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", "models:/franca@champion"]
    command += ["--env-manager", "local", "--port", str(port)]
    # The command starts another one by name, `uvicorn`, which must be of the same environment and find this `franca`.
    environment = os.environ | {
        "MLFLOW_TRACKING_URI": tracking_uri(),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY),
    }
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, env=environment, stdout=quiet, stderr=quiet, start_new_session=True)

    def answers() -> bool:
        assert process.poll() is None, "the server has ended"
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=5):
                return True
        except OSError:
            return False

    try:
        wait_for(answers, seconds=240)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def ask(address: str, inputs: Any) -> tuple[int, dict[str, Any]]:
    """Status and content of the answer."""
    body = json.dumps({"inputs": inputs}).encode()
    request = urllib.request.Request(f"{address}/invocations", body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@pytest.mark.slow
def test_images_in_embeddings_out_and_a_reason_for_anything_else(served: str) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, SIDE, SIDE, 3), dtype=np.uint8)
    status, content = ask(served, images.tolist())
    pooled = load_model(Path("models/franca"))(torch.from_numpy(images).permute(0, 3, 1, 2)).pooled
    assert status == 200
    np.testing.assert_allclose(content["predictions"], pooled, atol=1e-5)

    for bad, reason in (
        (images[:, :8].tolist(), "Shape of input (3, 8, 16, 3) does not match expected shape (-1, 16, 16, 3)."),
        (images[0].tolist(), "Shape of input (16, 16, 3) does not match expected shape (-1, 16, 16, 3)."),
        ((images.astype(int) + 1).tolist(), "Python integer 256 out of bounds for uint8"),
        (
            (images / 255).tolist(),
            "images: all values are 0 or 1, as those in 0..1 are once cast to uint8; send 0..255",
        ),
        ([[0, 1], [2]], "The requested array has an inhomogeneous shape after 1 dimensions."),
        ("a.jpg", "Failed to convert data `a.jpg` to type `Tensor('uint8', (-1, 16, 16, 3))`"),
    ):
        status, content = ask(served, bad)
        assert status == 400
        assert reason in content["message"].rpartition("Error: ")[2]
        assert "stack_trace" not in content and "Traceback" not in content["message"]

    (lines,) = re.findall(r"^```python\n(.*?)^```$", (REPOSITORY / "docs/tracking.md").read_text(), re.M | re.S)
    Image.effect_noise((40, 30), 50).save("photo.jpg")
    names: dict[str, Any] = {}
    exec(lines.replace("http://127.0.0.1:5001", served).replace("side = 32", f"side = {SIDE}"), names)
    assert np.array(names["embeddings"]).shape == (1, 16)
    command = ["curl", "-s", "-H", "Content-Type: application/json", "-d", "@body.json", f"{served}/invocations"]
    if shutil.which("curl"):
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        assert json.loads(done.stdout)["predictions"] == names["embeddings"]
