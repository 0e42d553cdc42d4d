import os
import re
import runpy
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    FlowRunFilter,
    FlowRunFilterId,
    LogFilter,
    LogFilterFlowRunId,
)
from prefect.client.schemas.objects import State
from prefect.settings import get_current_settings

from flows.commands import dvc
from flows.pipeline import pipeline, reproduce
from flows.quick import quick
from franca.files import read_json
from franca.params import Params, load_params

pytestmark = pytest.mark.usefixtures("prefect_server")


def params_of(project: Path) -> Params:
    return load_params(project / "params.yaml")


def with_source(project: Path, source: str) -> None:
    path = project / "params.yaml"
    path.write_text(re.sub(r"(?m)^  source: .*$", f"  source: {source}", path.read_text()))


def run_flow(params: Params) -> State[Any]:
    return pipeline(params, return_state=True)


def flow_run_id(state: State[Any]) -> UUID:
    assert state.state_details.flow_run_id is not None
    return state.state_details.flow_run_id


def task_states(state: State[Any]) -> dict[str, str]:
    chosen = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id(state)]))
    with get_client(sync_client=True) as client:
        return {run.name: run.state_name or "" for run in client.read_task_runs(flow_run_filter=chosen)}


def states_of_stage(state: State[Any], stage: str) -> list[str]:
    """Return the states of one stage's task."""
    chosen = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id(state)]))
    with get_client(sync_client=True) as client:
        run = next(run for run in client.read_task_runs(flow_run_filter=chosen) if run.name == stage)
        return [state.name or "" for state in client.read_task_run_states(run.id)]


def logs(state: State[Any]) -> list[str]:
    chosen = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[flow_run_id(state)]))
    with get_client(sync_client=True) as client:
        return [log.message for log in client.read_logs(chosen)]


def artifacts(state: State[Any]) -> dict[str, Any]:
    chosen = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[flow_run_id(state)]))
    with get_client(sync_client=True) as client:
        return {item.key or "": item.data for item in client.read_artifacts(artifact_filter=chosen)}


def experiment(state: State[Any]) -> str:
    with get_client(sync_client=True) as client:
        return client.read_flow_run(flow_run_id(state)).name


def test_a_run_and_an_experiment(project: Path) -> None:
    """The experiment has the name of the flow run, does not change the project, and can be applied to it."""
    first = run_flow(params_of(project))
    assert first.is_completed()
    states = task_states(first)
    assert states.pop(next(name for name in states if name.startswith("pull"))) == "Completed"
    assert states == {"prepare": "Completed", "evaluate": "Completed", "register": "Completed"}
    assert "packing three images" in logs(first)
    shown = artifacts(first)
    assert "90.0 [60.0, 99.0]" in shown["metrics"] and "40.0 [39.5, 40.5]" in shown["metrics"]
    assert shown["model-version"] == (
        f"**franca version 3** (champion) on `{project}`\n\n**all gates hold**\n\n"
        "- [run in MLflow](http://127.0.0.1/run)"
    )

    params = params_of(project)
    second = quick(values=["evaluate.knn_k=5", "datasets={}"], return_state=True)
    assert second.is_completed()
    assert {name: task_states(second)[name] for name in ("prepare", "evaluate")} == {
        "prepare": "Cached",
        "evaluate": "Completed",
    }
    assert "75.0 [60.0, 99.0]" in artifacts(second)["metrics"]
    assert f"on `{project}`\n" in artifacts(second)["model-version"]
    assert any(experiment(second) in line for line in logs(second))
    assert read_json(project / "results/evaluate/results.json")["rows"][0]["value"] == 90.0
    assert params_of(project) == params

    dvc(["exp", "apply", experiment(second)], project, print)
    assert params_of(project) == params.model_copy(
        update={"evaluate": params.evaluate.model_copy(update={"knn_k": 5})}
    )
    assert read_json(project / "results/evaluate/results.json")["rows"][0]["value"] == 75.0


def test_the_quick_flow_refuses_unknown_names(project: Path) -> None:
    state = quick(values=["evaluate.knn_q=5"], return_state=True)
    assert state.is_failed()
    assert "evaluate.knn_q: unknown key (value 5); did you mean knn_k?" in (state.message or "")
    assert not task_states(state)


def test_existing_data_is_used_if_the_pull_fails_and_a_failed_stage_fails_the_run(project: Path) -> None:
    """DVC does not overwrite data that is changed and not in the cache, and the flow goes on with it."""
    (project / "data/images.txt").write_text("four images")
    with_source(project, "broken")
    state = run_flow(params_of(project))
    assert state.is_failed()
    assert "packing four images" in logs(state)
    assert "stage prepare: prepare: broken: no image in it can be read" in (state.message or "")
    assert "evaluate" not in task_states(state)


def test_a_stopped_stage_is_resumed_as_long_as_it_makes_progress(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stage that is stopped twice at the same step fails with its error line."""
    monkeypatch.setattr(reproduce, "retry_delay_seconds", 1)
    with_source(project, "stopped")
    state = run_flow(params_of(project))
    assert state.is_completed()
    again = ["AwaitingRetry", "Retrying"]
    assert states_of_stage(state, "prepare") == ["Pending", "Running", *again, *again, "Completed"]

    with_source(project, "stuck")
    (project / "runs/saved").write_text("1")
    state = run_flow(params_of(project))
    assert state.is_failed()
    assert "stage prepare: stopped at step 1 of 2" in (state.message or "")
    assert states_of_stage(state, "prepare") == ["Pending", "Running", *again, "Failed"]


@pytest.fixture
def running(project: Path) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """The flow as a process, in a stage that never ends, and the process IDs of the stage."""
    with_source(project, "endless")
    environment = {**os.environ, **get_current_settings().to_environment_variables(exclude_unset=True)}
    command = [sys.executable, "-m", "flows.pipeline"]
    flow = subprocess.Popen(
        command, cwd=project, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert flow.stdout is not None
    found = next(found for line in flow.stdout if (found := re.search(r"pids (\d+) (\d+)", line)))
    yield flow, [int(found[1]), int(found[2])]
    flow.kill()


def test_a_terminated_flow_leaves_no_process(running: tuple[subprocess.Popen[str], list[int]]) -> None:
    flow, pids = running
    flow.send_signal(signal.SIGTERM)
    flow.communicate(timeout=60)
    left = psutil.wait_procs([psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)], timeout=20)[1]
    assert not [process for process in left if process.status() != psutil.STATUS_ZOMBIE]


def test_invalid_params_are_a_one_line_error(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (project / "params.yaml").read_text()
    (project / "params.yaml").write_text(text.replace("  knn_k:", "  knn_q:"))
    monkeypatch.delitem(sys.modules, "flows.pipeline")
    with pytest.raises(SystemExit) as caught:
        runpy.run_module("flows.pipeline", run_name="__main__")
    assert caught.value.code == 2
    assert "unknown key (value 20); did you mean knn_k?" in capsys.readouterr().err
