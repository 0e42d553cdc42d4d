"""The flows that look at data.dvc and at new images: states, events, and the training runs that they start."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.testing.utilities import prefect_test_harness

from franca.models import random_model, save_model
from tests.conftest import MakeParams, MakeStore
from tests.drift.test_drift import mosaics, save

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def server() -> Iterator[None]:
    """A Prefect server with the deployment pipeline/nightly, and no worker."""
    with prefect_test_harness(server_startup_timeout=240):
        with get_client(sync_client=True) as client:
            client.create_deployment(client.create_flow_from_name("pipeline"), "nightly")
        yield


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Event and text of what is sent."""
    sent: list[tuple[str, str]] = []

    def note(event: str, model: str, text: str, payload: dict[str, Any]) -> None:
        sent.append((event, text))

    for module in ("watch", "drift"):
        monkeypatch.setattr(f"flows.{module}.send_event", note)
    return sent


def started() -> int:
    """Number of runs of pipeline/nightly."""
    with get_client(sync_client=True) as client:
        found = client.read_deployment_by_name("pipeline/nightly")
        return sum(run.deployment_id == found.id for run in client.read_flow_runs())


def commit(folder: Path, content: str) -> None:
    (folder / "data.dvc").write_text(content)
    identity = "git -c user.name=tests -c user.email=tests@localhost"
    subprocess.run(f"git add data.dvc && {identity} commit -qm 'more data'", shell=True, cwd=folder, check=True)


def test_another_data_dvc_is_an_event(server: None, project: Path, events: list[tuple[str, str]]) -> None:
    from flows.watch import watch

    before = started()
    assert [watch(return_state=True).name for _ in range(2)] == ["FirstLook", "Unchanged"]
    (project / "data.dvc").write_text("outs: []  # not committed")
    assert watch(return_state=True).name == "Unchanged"
    commit(project, "outs: []")
    assert watch(return_state=True).name == "Changed"
    ((event, text),) = events
    assert event == "franca.data.changed" and text.endswith("(more data)")
    assert started() == before
    commit(project, "outs: []  # again")
    assert watch(retrain=True, return_state=True).name == "Changed"
    assert started() == before + 1
    assert watch(retrain=True, return_state=True).name == "Unchanged"
    assert started() == before + 1 and len(events) == 2


def test_drift_is_an_event_and_can_start_a_run(
    server: None,
    project: Path,
    events: list[tuple[str, str]],
    make_store: MakeStore,
    tiny_params: MakeParams,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from flows.drift import drift

    monkeypatch.setenv("DVC_ROOT", str(project))
    make_store(project / "prepared", train=60, val=0, images=mosaics(0, 60))
    save_model(random_model(tiny_params().base), project / "models/franca")
    before = started()
    assert drift(str(save(project / "same", mosaics(1, 40))), retrain=True, return_state=True).name == "NoDrift"
    assert not events and started() == before
    gray = save(project / "gray", mosaics(1, 40, gray=True))
    state = drift(str(gray), retrain=True, return_state=True)
    assert state.name == "DriftFound" and "differ from the training images" in str(state.message)
    assert [event for event, _ in events] == ["franca.drift.found"] and started() == before + 1
    assert len(list((project / "runs/drift").glob("*/drift.html"))) == 2
    failed = drift(str(project / "nowhere"), return_state=True)
    assert failed.is_failed() and "nowhere: no such folder" in str(failed.message)
