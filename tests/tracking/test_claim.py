"""The claim on a registered model: one holder at a time, and nobody waits for the dead."""

import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from franca.errors import FrancaError
from franca.tracking.claim import TAG, claim
from franca.tracking.client import connect
from tests.tracking.conftest import REPOSITORY

COUNT = """
import time
from franca.tracking import claim
from franca.tracking.client import connect
claim.SETTLE_SECONDS = 0.3
client = connect()
for _ in range(3):
    with claim.claim(client, "m"):
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


def test_claim_of_a_dead_process_is_passed_over(client: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("franca.tracking.claim.STALE_SECONDS", 0.5)
    client.set_registered_model_tag("m", TAG, "elsewhere process 7 abc")
    with claim(client, "m") as ours:
        assert ours()
    assert TAG not in client.get_registered_model("m").tags


def test_claim_of_a_live_process_is_told(client: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("franca.tracking.claim.PATIENCE_SECONDS", 0.5)
    client.set_registered_model_tag("m", TAG, "elsewhere process 7 abc")
    with pytest.raises(FrancaError, match="elsewhere process 7 writes to it"), claim(client, "m"):
        pass
    assert client.get_registered_model("m").tags[TAG] == "elsewhere process 7 abc"


def test_holder_sees_that_its_claim_was_overrun_and_leaves_the_other(client: MlflowClient) -> None:
    with claim(client, "m") as ours:
        client.set_registered_model_tag("m", TAG, "elsewhere process 7 abc")
        assert not ours()
    assert client.get_registered_model("m").tags[TAG] == "elsewhere process 7 abc"
