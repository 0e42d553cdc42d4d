"""What people decide stands: rollback, approve, reject; and the history has all of it."""

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException

from franca.cli import main
from franca.errors import ApprovalNeeded, FrancaError, GatesFailed
from franca.files import read_json, write_json
from franca.params import Params, parse_params
from franca.stages import register
from franca.tracking import history, promote, review
from franca.tracking.client import connect
from franca.tracking.history import Entry
from tests.tracking.conftest import REPOSITORY, Finish
from tests.tracking.test_promote import APPLY_GATES, aliases, unreachable

RECEIPT = Path("results/register/receipt.json")


def changed(params: Params, **values: Any) -> Params:
    tree = params.model_dump(by_alias=True)
    return parse_params(tree | {"register": tree["register"] | values}, "params.yaml")


def with_improvement(params: Params, minimum: float) -> Params:
    """Other gates, so that `register` judges again."""
    gate = {"metric": "knn/val/top1", "against": "champion", "min_improvement": minimum, "floor": None}
    return changed(params, gates=[gate])


def entries() -> list[Entry]:
    return history.read(connect(), "franca")


def moves() -> list[tuple[str, str | None, str | None, str | None]]:
    return [(entry.action, entry.version, entry.before, entry.after) for entry in entries()]


@pytest.fixture
def three_versions(finish: Finish, params: Params) -> None:
    """Versions 1, 2 and 3 became champion one after the other; the project has the results of the third."""
    for seed, knn in ((1, 70), (2, 75), (3, 80)):
        finish(seed=seed, knn=knn)
        register.run(params)


@pytest.mark.usefixtures("three_versions")
def test_rollback_stands_and_is_in_the_history(params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "jane")
    monkeypatch.setenv("FRANCA_FLOW_RUN", "red-fox (1)")
    assert aliases() == {"champion": "3", "previous": "2"}
    review.rollback(params, None, "blurs\n on  water")
    assert aliases() == {"champion": "2", "previous": "1"}
    for again in (params, with_improvement(params, 0.6)):
        register.run(again)
        assert read_json(RECEIPT)["decision"][0].startswith("rejected by jane: blurs on water")
        assert aliases() == {"champion": "2", "previous": "1"}
    review.rollback(params, None, "also")
    assert aliases() == {"champion": "1"}
    with pytest.raises(FrancaError, match=r"^franca: no earlier champion to go back to"):
        review.rollback(params, None, "again")

    assert moves() == [
        ("promoted", "1", None, "1"),
        ("promoted", "2", "1", "2"),
        ("promoted", "3", "2", "3"),
        ("rolled back", "2", "3", "2"),
        ("not promoted", "3", "2", "2"),
        ("rolled back", "1", "2", "1"),
    ]
    first, entry = entries()[0], entries()[3]
    assert (entry.actor, entry.reason, entry.flow_run) == ("jane", "blurs on water", "red-fox (1)")
    assert first.actor != "jane" and first.suite and first.data and first.run
    assert all(gate["passed"] and gate["sentence"].startswith(gate["metric"]) for gate in first.gates)


@pytest.mark.usefixtures("three_versions")
def test_rollback_to_a_version_by_number(params: Params) -> None:
    for number, line in (("3", "is the champion already"), ("9", "no version 9"), ("x", "no version x")):
        with pytest.raises(FrancaError, match=line):
            review.rollback(params, number, "why")
    review.rollback(params, "1", "why")
    assert aliases() == {"champion": "1"}
    review.approve(params, "3", "it was the data")
    assert aliases() == {"champion": "3", "previous": "1"}
    assert "franca.rejected" not in connect().get_model_version("franca", "3").tags
    register.run(params)
    assert read_json(RECEIPT)["decision"][0].startswith("approved by ")


@pytest.mark.usefixtures("three_versions")
def test_a_champion_replaced_by_hand_does_not_come_back(params: Params) -> None:
    connect().set_registered_model_alias("franca", "champion", "1")
    register.run(with_improvement(params, 0.6))
    assert aliases()["champion"] == "1"
    assert read_json(RECEIPT)["decision"][0].startswith("it was champion before and was replaced; `franca approve 3")
    assert moves()[-2:] == [("found", "1", "3", "1"), ("not promoted", "3", "1", "1")]


def test_without_the_alias_the_last_champion_still_counts(finish: Finish, params: Params) -> None:
    finish(seed=1, knn=75)
    register.run(params)
    connect().delete_registered_model_alias("franca", "champion")
    finish(seed=2, knn=55)
    register.run(params)
    assert aliases() == {"challenger": "2"}
    assert "against version 1, the last champion (no version has the alias now)" in read_json(RECEIPT)["decision"][0]
    assert moves()[-2:] == [("found", None, "1", None), ("not promoted", "2", None, None)]
    finish(seed=3, knn=80)
    register.run(params)
    assert aliases() == {"champion": "3"}


def test_a_deleted_champion_counts_by_its_results(finish: Finish, params: Params) -> None:
    finish(seed=1, knn=75)
    register.run(params)
    connect().delete_model_version("franca", "1")
    finish(seed=2, knn=55)
    register.run(params)
    assert aliases() == {"challenger": "2"}
    finish(seed=3, knn=80, data_digest="e" * 64)
    register.run(params)
    assert read_json(RECEIPT)["decision"][0].startswith(
        "stays challenger: version 1, the last champion (no version has"
    )
    assert aliases() == {"challenger": "3"}
    with pytest.raises(FrancaError, match="no version waits for approval; name one"):
        review.approve(params, None, "new data")
    review.approve(params, "3", "new data")
    assert aliases() == {"champion": "3"}


@pytest.mark.parametrize(
    ("value", "fault"),
    [(105.0, "is 105 %, which"), (69.0, "is 69, but its images add up to 70.0"), (float("nan"), "nan")],
)
def test_edited_results_are_refused(finish: Finish, params: Params, value: float, fault: str) -> None:
    results = finish(knn=70)
    results["rows"][0]["value"] = value
    write_json(Path("results/evaluate/results.json"), results)
    with pytest.raises(FrancaError, match=rf"^results/evaluate/results.json: knn/val/top1 of franca .*{fault}"):
        register.run(params)
    assert not connect().search_registered_models()


def test_manual_promotion_waits_for_a_person(
    finish: Finish, params: Params, capsys: pytest.CaptureFixture[str]
) -> None:
    finish(seed=1, knn=70)
    register.run(params)
    manual = changed(params, promotion="manual")
    finish(seed=2, knn=75)
    register.run(manual)
    waits = "waits for approval: all gates hold against champion version 1; `franca approve 2 --reason TEXT`"
    assert read_json(RECEIPT)["decision"][0].startswith(waits)
    assert aliases() == {"champion": "1", "challenger": "2"}
    for apply in (True, False):
        with pytest.raises(ApprovalNeeded, match="version 2 waits for approval"):
            promote.run(manual, apply=apply)
    assert [move[0] for move in moves()] == ["promoted", "waiting"], "nobody asked for it twice"

    Path("params.yaml").write_text(json.dumps(manual.model_dump(mode="json", by_alias=True)))
    assert main(["promote", "--apply"]) == 4
    capsys.readouterr()
    assert main(["approve", "--reason", "looks good", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["action"], found["before"], found["after"], found["reason"]) == ("approved", "1", "2", "looks good")
    assert aliases() == {"champion": "2", "previous": "1"}
    assert "franca.waiting" not in connect().get_model_version("franca", "2").tags

    finish(seed=3, knn=80)
    register.run(manual)
    assert main(["reject", "--reason", "too slow"]) == 0
    assert "franca: champion 2\nversion 3 is rejected" in capsys.readouterr().out
    assert aliases() == {"champion": "2", "previous": "1"}
    register.run(params)
    assert read_json(RECEIPT)["decision"][0].startswith("rejected by ")
    connect().set_registered_model_alias("franca", "challenger", "3")
    with pytest.raises(
        GatesFailed, match=r"rejected by .*: too slow; `franca approve 3 --reason TEXT` makes it champion"
    ):
        promote.run(params, apply=True)
    assert aliases()["champion"] == "2"


def test_a_waiting_version_was_compared_with_the_present_champion(finish: Finish, params: Params) -> None:
    finish(seed=1, knn=70)
    register.run(params)
    manual = changed(params, promotion="manual")
    finish(seed=2, knn=75)
    register.run(manual)
    finish(seed=3, knn=80)
    register.run(unreachable(params))
    review.approve(params, "3", "first")
    connect().set_registered_model_alias("franca", "challenger", "2")
    with pytest.raises(
        FrancaError, match="version 2 was compared with champion 1, which is 3 now; run `franca promote"
    ):
        review.approve(params, None, "second")
    with pytest.raises(GatesFailed, match="stays challenger"):
        promote.run(manual, apply=True)
    assert aliases() == {"champion": "3", "previous": "1", "challenger": "2"}


@pytest.mark.usefixtures("three_versions")
def test_reasons_and_versions_that_make_no_sense(params: Params) -> None:
    before = moves()
    for reason in ("", " \n", "x" * 1001):
        with pytest.raises(FrancaError, match=r"^--reason: has [0-9]+ characters; give 1 to 1000$"):
            review.rollback(params, None, reason)
    with pytest.raises(FrancaError, match="version 3 is the champion; `franca rollback"):
        review.reject(params, "3", "why")
    with pytest.raises(FrancaError, match=r"^nobody: no model of this name is registered"):
        review.reject(changed(params, model_name="nobody"), "3", "why")
    assert moves() == before


def test_history_as_text_and_json(finish: Finish, params: Params, capsys: pytest.CaptureFixture[str]) -> None:
    review.show(params)
    assert capsys.readouterr().out == "franca: no history yet; `franca register` begins it\n"
    finish(seed=1)
    register.run(params)
    capsys.readouterr()
    review.show(params)
    head, reason, *rest = capsys.readouterr().out.splitlines()
    assert "  version 1 promoted by " in head and head.endswith("; champion none -> 1")
    assert reason == "    all gates hold with no champion yet"
    assert rest[0].startswith("    pass  knn/val/top1 70.00 holds") and rest[-1].startswith("    suite ")
    review.show(params, as_json=True)
    (entry,) = json.loads(capsys.readouterr().out)
    assert entry["after"] == "1" and entry["gates"][0]["metric"] == "knn/val/top1"


def test_entries_cannot_be_changed_and_long_ones_fit(finish: Finish, params: Params) -> None:
    finish(seed=1)
    register.run(params)
    client = connect()
    sentences = [{"metric": "knn/val/top1", "passed": True, "sentence": "ä" * 900} for _ in range(12)]
    history.append(client, "franca", Entry("promoted", "1", "1", "1", "x" * 1000, gates=sentences), 2)
    assert len(entries()) == 2 and len(entries()[1].gates) == 12
    experiment = client.get_experiment_by_name(history.EXPERIMENT)
    assert experiment
    (run,) = client.search_runs([experiment.experiment_id])
    key = min(key for key in run.data.params)
    with pytest.raises(MlflowException):
        client.log_param(run.info.run_id, key, "{}")
    client.delete_run(run.info.run_id)
    review.approve(params, "1", "x") if aliases().get("champion") != "1" else None
    assert len(entries()) == 2, "a deleted run still counts"


@pytest.mark.slow
@pytest.mark.usefixtures("three_versions")
def test_promotions_and_a_rollback_at_once_end_consistent(
    finish: Finish, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed, knn in ((4, 85), (5, 85.2)):
        finish(seed=seed, knn=knn)
        register.run(unreachable(params))
    Path("params.yaml").write_text(json.dumps(params.model_dump(mode="json", by_alias=True)))
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    pipe = subprocess.PIPE
    rivals = [
        subprocess.Popen([sys.executable, "-c", APPLY_GATES, number], stdin=pipe, stdout=pipe, text=True)
        for number in ("4", "5")
    ]
    for rival in rivals:
        assert rival.stdout and rival.stdout.readline() == "ready\n"
    command = [sys.executable, "-m", "franca", "rollback", "--reason", "at the same time"]
    back = subprocess.Popen(command, stdout=pipe, text=True)
    for rival in rivals:
        assert rival.stdin
        rival.stdin.write("\n")
        rival.stdin.flush()
    outcomes = [rival.communicate(timeout=240)[0].strip() for rival in rivals]
    assert back.wait(timeout=240) == 0
    found = entries()
    for one, other in itertools.pairwise(found):
        assert one.after == other.before, "each decision knew the one before"
    assert {entry.action for entry in found} == {"promoted", "not promoted", "rolled back"}
    assert aliases()["champion"] == found[-1].after
    assert "promote" in outcomes
    rejected = [
        number for number in "12345" if "franca.rejected" in connect().get_model_version("franca", number).tags
    ]
    (rolled,) = [entry for entry in found if entry.action == "rolled back"]
    assert rejected == [rolled.before] and aliases()["champion"] not in rejected
