"""The lock on a registered model: one holder at a time, and a lock of a dead process expires."""

import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from franca.errors import FrancaError
from franca.tracking.client import connect
from franca.tracking.model_lock import TAG, lock_model
from tests.tracking.conftest import REPOSITORY

COUNT = """
import time
from franca.tracking import model_lock
from franca.tracking.client import connect
model_lock.DELAY_SECONDS = 0.3
client = connect()
for _ in range(3):
    with model_lock.lock_model(client, "m"):
        count = int(client.get_registered_model("m").tags["count"])
        time.sleep(0.3)
        client.set_registered_model_tag("m", "count", count + 1)
"""


@pytest.fixture
def client(root: Path) -> MlflowClient:
    client = connect()
    client.create_registered_model("m", tags={"count": "0"})
    return client


@pytest.mark.slow
def test_two_processes_never_write_at_once(client: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    writers = [subprocess.Popen([sys.executable, "-c", COUNT]) for _ in range(2)]
    assert [writer.wait(timeout=120) for writer in writers] == [0, 0]
    tags = client.get_registered_model("m").tags
    assert tags["count"] == "6"
    assert TAG not in tags


def test_lock_of_a_dead_process_expires(client: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("franca.tracking.model_lock.STALE_SECONDS", 0.5)
    client.set_registered_model_tag("m", TAG, "elsewhere process 7 abc")
    with lock_model(client, "m") as ours:
        assert ours()
    assert TAG not in client.get_registered_model("m").tags


def test_lock_of_a_live_process_is_reported(client: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("franca.tracking.model_lock.TIMEOUT_SECONDS", 0.5)
    client.set_registered_model_tag("m", TAG, "elsewhere process 7 abc")
    with pytest.raises(FrancaError, match="locked by elsewhere process 7; run again"), lock_model(client, "m"):
        pass
    assert client.get_registered_model("m").tags[TAG] == "elsewhere process 7 abc"


def test_holder_notices_that_it_lost_the_lock_and_leaves_the_other_one(client: MlflowClient) -> None:
    with lock_model(client, "m") as ours:
        client.set_registered_model_tag("m", TAG, "elsewhere process 7 abc")
        assert not ours()
    assert client.get_registered_model("m").tags[TAG] == "elsewhere process 7 abc"
