"""A version that waits for approval suspends the flow; the form decides."""

import json
from pathlib import Path
from typing import Any

import pytest

from franca.models import random_model, save_model
from franca.params import Params, ResolvedBase, parse_params, read_yaml
from franca.stages import register
from franca.tracking import history
from franca.tracking.client import connect
from tests.flows.test_deployments import ROOT, Site, api, end_of, start, wait  # noqa: F401
from tests.tracking.conftest import write_results
from tests.tracking.test_promote import aliases

pytestmark = pytest.mark.server


def manual_params() -> Params:
    values = read_yaml(ROOT / "params.yaml")
    backbone = values["base"]["backbone"] | {"embed_dim": 16, "depth": 1, "num_heads": 1}
    values["base"] |= {"image_size": 16, "backbone": backbone}
    values["register"]["promotion"] = "manual"
    return parse_params(values, "params.yaml")


@pytest.fixture
def make_version(project: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Register a version with a score on k-NN, in the database of the project in which the worker runs."""
    monkeypatch.setenv("DVC_ROOT", str(project))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    params = manual_params()
    (project / "params.yaml").write_text(json.dumps(params.model_dump(mode="json", by_alias=True)))

    def make(seed: int, knn: float) -> None:
        base = ResolvedBase.model_validate(params.base.model_dump() | {"seed": seed})
        save_model(random_model(base), Path("models/franca"))
        write_results(params, seed, knn, 80, "d" * 64, 40.0)
        register.run(params)

    return make


def suspended(api: Site, run: str) -> dict[str, Any] | None:  # noqa: F811
    state = api.get(f"/flow_runs/{run}").json()["state"]
    assert state["type"] in {"SCHEDULED", "PENDING", "RUNNING", "PAUSED"}, state
    return dict(state) if state["name"] == "Suspended" else None


def test_the_form_of_a_suspended_run_decides(make_version: Any, api: Site) -> None:  # noqa: F811
    make_version(1, 70.0)
    run = start(api, "promote/champion", {"apply": True}).json()["id"]
    state = wait(lambda: suspended(api, run))
    keyset = state["state_details"]["run_input_keyset"]
    description = api.get(f"/flow_runs/{run}/input/{keyset['description']}").json()
    schema = api.get(f"/flow_runs/{run}/input/{keyset['schema']}").json()
    assert "| knn/val/top1 | 70.0 [69.0, 71.0] |" in description
    assert schema["properties"]["version"]["default"] == "1"
    assert schema["properties"]["decision"]["enum"] == ["approve", "reject"]

    def resume(**answer: str) -> str:
        answer = {"name": "jane", **answer}
        found = api.post(f"/flow_runs/{run}/resume", json={"run_input": answer}).json()
        return str(found["status"])

    assert resume(version="1", decision="perhaps", reason="x") == "REJECT"
    assert resume(version="1", decision="approve", reason="") == "REJECT"
    dry_run = start(api, "promote/champion", {}).json()["id"]
    assert end_of(api, dry_run)["name"] == "NeedsApproval", "a suspended run keeps no other from starting"
    make_version(2, 75.0)  # a newer challenger does not change what the form was about
    assert resume(version="1", decision="approve", reason="good enough") == "ACCEPT"
    assert end_of(api, run)["type"] == "COMPLETED"
    assert aliases() == {"champion": "1", "challenger": "2"}
    entry = history.read(connect(), "franca")[-1]
    assert (entry.action, entry.version, entry.reason) == ("approved", "1", "good enough")
    assert entry.flow_run and run in entry.flow_run and entry.actor.startswith("jane (form, as ")

    run = start(api, "promote/champion", {"apply": True}).json()["id"]
    wait(lambda: suspended(api, run))
    assert resume(version="2", decision="reject", reason="too slow") == "ACCEPT"
    assert end_of(api, run)["name"] == "Rejected"
    assert aliases() == {"champion": "1"}
