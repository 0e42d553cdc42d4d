"""Promotion moves one alias, by the gates, on the same data and suite, and only once."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from franca.cli import main
from franca.errors import FrancaError, GatesFailed
from franca.evaluation.comparison import Evidence
from franca.files import sha256_file
from franca.params import Params, parse_params
from franca.stages import register
from franca.tracking import promote
from franca.tracking.client import connect
from tests.tracking.conftest import REPOSITORY, Finish, row

APPLY_GATES = """
import sys, time, pathlib
from franca.params import load_params
from franca.tracking import promote, registry
from franca.tracking.client import connect
client, params = connect(), load_params(pathlib.Path("params.yaml"))
version = client.get_model_version("franca", sys.argv[1])
results = registry.read_evidence(client, registry.run_of(version))
print("ready", flush=True)
sys.stdin.readline()
print(promote.apply_gates(client, params, version, results).outcome)
"""


def aliases() -> dict[str, str]:
    found = connect().get_registered_model("franca").aliases
    return {alias: str(version) for alias, version in found.items()}


def unreachable(params: Params) -> Params:
    """Parameters with a floor that no model reaches, so that `register` leaves a challenger."""
    values = params.model_dump(by_alias=True)
    gates = [{"metric": "knn/val/top1", "against": "champion", "min_improvement": 0.0, "floor": 1000.0}]
    return parse_params(values | {"register": values["register"] | {"gates": gates}}, "params.yaml")


@pytest.fixture
def two_versions(finish: Finish, params: Params) -> None:
    """Version 1 is champion; version 2, better on k-NN, is challenger."""
    finish(seed=1, knn=70)
    register.run(params)
    finish(seed=2, knn=75)
    register.run(unreachable(params))


@pytest.mark.usefixtures("two_versions")
def test_dry_run_shows_the_results_and_changes_nothing(params: Params, capsys: pytest.CaptureFixture[str]) -> None:
    promote.run(params, apply=False)
    shown = capsys.readouterr().out
    assert "franca version 2: all gates hold against champion version 1" in shown
    assert "pass  knn/val/top1 75.00 holds: 5.00 above the champion's 70.00" in shown
    assert "dry run: nothing was changed; `franca promote --apply` moves the champion 1 -> 2" in shown
    assert aliases() == {"champion": "1", "challenger": "2"}

    promote.run(params, apply=True)
    assert capsys.readouterr().out.endswith("champion 1 -> 2\n")
    assert aliases() == {"champion": "2", "previous": "1"}
    promote.run(params, apply=True)
    assert "nothing to promote; champion is version 2" in capsys.readouterr().out
    assert aliases() == {"champion": "2", "previous": "1"}


@pytest.mark.usefixtures("two_versions")
def test_a_gate_that_fails_keeps_the_champion(params: Params, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(
        GatesFailed, match=r"^franca version 2: stays challenger: knn/val/top1 failed against champion"
    ):
        promote.run(unreachable(params), apply=True)
    assert "FAIL  knn/val/top1 75.00 fails: the floor is 1000" in capsys.readouterr().out
    assert aliases() == {"champion": "1", "challenger": "2"}


@pytest.mark.usefixtures("two_versions")
def test_gates_are_checked_again_if_the_champion_has_changed(params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    """Version 2 is made champion by hand between the check and the write."""
    client, judged = connect(), promote.evaluate_gates
    challenger = client.get_model_version("franca", "2")

    def evaluate_gates(*arguments: Any) -> promote.Decision:
        decision = judged(*arguments)
        client.set_registered_model_alias("franca", "champion", "2")
        return decision

    monkeypatch.setattr(promote, "evaluate_gates", evaluate_gates)
    evidence = promote.read_evidence(client, promote.run_of(challenger))
    assert evidence and evidence.outcomes
    decision = promote.apply_gates(client, params, challenger, evidence)
    assert (decision.outcome, decision.champion, decision.reason) == ("champion", "2", "it is the champion already")


@pytest.mark.slow
def test_two_promotions_at_once_have_one_winner(
    two_versions: None, finish: Finish, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are better than the champion and equally good, so the second must be compared with the first."""
    finish(seed=3, knn=75.2)
    register.run(unreachable(params))
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    command = [sys.executable, "-c", APPLY_GATES]
    pipe = subprocess.PIPE
    rivals = [subprocess.Popen([*command, number], stdin=pipe, stdout=pipe, text=True) for number in ("2", "3")]
    for rival in rivals:
        assert rival.stdout
        assert rival.stdout.readline() == "ready\n"
    for rival in rivals:
        assert rival.stdin
        rival.stdin.write("\n")
        rival.stdin.flush()
    won = [rival.communicate(timeout=120)[0] == "promote\n" for rival in rivals]
    assert sorted(won) == [False, True]
    assert aliases()["champion"] == ("2" if won[0] else "3")


def test_champion_of_another_suite_is_measured_again(
    two_versions: None, finish: Finish, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = connect().get_model_version("franca", "1").tags["franca.digest"]
    values = params.model_dump(by_alias=True)
    params = parse_params(values | {"evaluate": values["evaluate"] | {"knn_k": 5}}, "params.yaml")
    results = finish(seed=3, knn=72, suite=params, data_digest=sha256_file(Path("prepared/manifest.json")))
    measured: list[str] = []

    def measure(folder: Path, store: Any, with_params: Params, baselines: bool) -> Evidence:
        assert not baselines
        measured.append(sha256_file(folder / "model.safetensors"))
        return Evidence(results | {"rows": [row("franca", "knn", "val", 73), row("franca", "linear", "val", 80)]})

    monkeypatch.setattr("franca.evaluation.suite.evaluate_model", measure)
    register.run(params)
    assert measured == [first]
    assert aliases() == {"champion": "1", "challenger": "3"}
    decision = connect().get_model_version("franca", "3").tags["franca.decision"]
    assert "1.00 below the champion's 73.00" in decision


@pytest.mark.usefixtures("two_versions")
def test_results_that_cannot_be_compared_need_the_data(params: Params) -> None:
    client = connect()
    run_id = client.get_model_version("franca", "1").run_id
    client.log_text(str(run_id), "{}", "results/evaluate/results.json")
    Path("prepared/manifest.json").unlink()
    with pytest.raises(FrancaError, match=r"one of them must be measured again, which failed: .*run `dvc repro prep"):
        promote.run(params, apply=True)


@pytest.mark.usefixtures("two_versions")
def test_the_command_has_codes_and_json(params: Params, capsys: pytest.CaptureFixture[str]) -> None:
    Path("params.yaml").write_text(json.dumps(unreachable(params).model_dump(mode="json", by_alias=True)))
    capsys.readouterr()
    assert main(["promote", "--apply", "--json"]) == 3
    printed = capsys.readouterr()
    assert printed.err.startswith("franca: franca version 2: stays challenger: ") and printed.err.count("\n") == 1
    found = json.loads(printed.out)
    assert (found["outcome"], found["promoted"], found["from"], found["to"]) == ("challenger", False, "1", "1")
    assert [gate["passed"] for gate in found["gates"]] == [False]

    Path("params.yaml").write_text(json.dumps(params.model_dump(mode="json", by_alias=True)))
    assert main(["promote", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["promoted"] is False
    assert main(["promote", "--apply", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["outcome"], found["promoted"], found["from"], found["to"]) == ("promote", True, "1", "2")
    assert main(["promote", "--apply", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["outcome"] == "nothing"


def test_empty_registry_has_nothing_to_promote(root: Path, params: Params, capsys: pytest.CaptureFixture[str]) -> None:
    promote.run(params, apply=True)
    assert "nothing to promote; it has no champion either" in capsys.readouterr().out
