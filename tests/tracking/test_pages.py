"""What people read in MLflow: names, descriptions, tables, and curves that a clone sends again."""

import shutil
import subprocess
from pathlib import Path

import pytest

from franca.files import read_json, write_bytes
from franca.params import Params
from franca.stages import register
from franca.tracking.client import connect
from franca.tracking.decision_text import HEADING, description_digest, is_ours, with_decision
from franca.tracking.run_notes import write_note
from franca.tracking.stored_curves import read_curve
from franca.tracking.unchanged import RECEIPT
from tests.tracking.conftest import Finish


def test_run_and_version_explain_themselves_and_link_to_each_other(finish: Finish, params: Params) -> None:
    finish()
    register.run(params)
    receipt, client = read_json(RECEIPT), connect()
    run, version = client.get_run(receipt["run_id"]), client.get_model_version("franca", "1")
    assert run.info.run_name == "k-NN 70.0: eurosat, ViT 16x1/8, 8 epochs (01234567)"
    assert run.data.tags["franca.state"] == "registered"
    note, card = run.data.tags["mlflow.note.content"], str(version.description)
    assert "[franca version 1](#/models/franca/versions/1?" in note
    assert f"runs/{receipt['run_id']}?" in card and f"franca reproduce {receipt['run_id']}" in card
    row = "| k-NN, val | &ensp;70.0 [69.0, 71.0] | &ensp;40.0 [39.0, 41.0] | &ensp;44.0 [43.0, 45.0] |"
    assert row in note and row in card
    assert note.startswith("**On test: k-NN 69.0 [68.0, 70.0].**")
    assert 'franca.load("models:/franca/1")' in card
    for heading in ("## Load", "## Scores", "## Limits", "## Data and lineage", HEADING):
        assert heading in card
    assert "(80 train, 10 val, 10 test)" in card


def test_a_later_decision_replaces_the_last_section_of_the_card(finish: Finish, params: Params) -> None:
    finish()
    register.run(params)
    card = str(connect().get_model_version("franca", "1").description)
    finish(knn=71)
    register.run(params)
    other = str(connect().get_model_version("franca", "1").description)
    assert "71.0 [70.0, 72.0]" in other and "70.0 [69.0, 71.0]" in card
    assert other.count(HEADING) == 1
    assert with_decision(card, ["one", "two"]).endswith(f"{HEADING}\n\n- one\n- two")
    assert with_decision("", ["one", "two"]) == "one\ntwo"
    assert not is_ours("a person's", {"franca.card": description_digest(card)})


def test_what_people_write_stays(finish: Finish, params: Params) -> None:
    finish()
    register.run(params)
    run_id, client = read_json(RECEIPT)["run_id"], connect()
    client.set_tag(run_id, "mlflow.note.content", "mine")
    write_note(client, run_id, "other")
    assert client.get_run(run_id).data.tags["mlflow.note.content"] == "mine"


def test_scores_by_number_are_one_curve(finish: Finish, params: Params) -> None:
    from franca.files import write_json
    from tests.tracking.conftest import row

    results = finish()
    levels = [{**row("franca", "knn_levels", "val", value), "metric": f"top1_{d}"} for d, value in ((8, 60), (16, 70))]
    write_json(Path("results/evaluate/results.json"), results | {"rows": results["rows"] + levels})
    for _ in range(2):
        register.run(params)
        RECEIPT.unlink()
    client = connect()
    (run,) = client.search_runs(["1"])
    history = client.get_metric_history(run.info.run_id, "knn_levels/val/top1")
    assert sorted((metric.step, metric.value) for metric in history) == [(8, 60.0), (16, 70.0)]


def test_a_clone_sends_the_curves_and_the_commit_of_the_training(finish: Finish, params: Params, root: Path) -> None:
    """The machine that registers has no run folder, and its commit is a later one."""

    def git(*arguments: str) -> str:
        command = ["git", "-c", "user.name=n", "-c", "user.email=e", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    finish()
    write_bytes(Path("results/pretrain/curves/loss.csv"), b"step,loss,dino\n10,9.5,4\n20,9.25,3.5\n")
    write_bytes(Path("results/pretrain/curves/knn.csv"), b"step,top1,random\n20,55.5,\n")
    write_bytes(Path("results/pretrain/curves/teacher_entropy.csv"), b"step,dino_level12\n20,2.5\n")
    git("init", "-q")
    git("add", "results", "params.yaml")
    git("commit", "-qm", "results")
    trained = git("rev-parse", "HEAD")
    git("commit", "-qm", "later", "--allow-empty")
    shutil.rmtree("runs")
    register.run(params)
    client, run_id = connect(), read_json(RECEIPT)["run_id"]
    run = client.get_run(run_id)
    assert run.data.tags["franca.train.commit"] == trained != run.data.tags["mlflow.source.git.commit"]
    losses = client.get_metric_history(run_id, "train/loss")
    assert sorted((point.step, point.value) for point in losses) == [(10, 9.5), (20, 9.25)]
    assert run.data.metrics["val/knn_top1"] == 55.5
    assert run.data.metrics["train/teacher_entropy/dino/level12"] == 2.5


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("knn", "step,top1,random\n5,50,\n", [("val/knn_top1", 5, 50.0)]),
        (
            "rank",
            "step,rank,random\n5,50,40\n",
            [("val/effective_rank", 5, 50.0), ("val/effective_rank_random", 5, 40.0)],
        ),
        ("prototypes_used", "step,ibot_level192\n5,1\n", [("train/prototypes_used/ibot/level192", 5, 1.0)]),
        ("agreement", "step,top1,random,pixels\n", []),
    ],
)
def test_names_of_stored_curves(tmp_path: Path, name: str, text: str, expected: list[tuple[str, int, float]]) -> None:
    (tmp_path / f"{name}.csv").write_text(text)
    assert read_curve(tmp_path / f"{name}.csv") == expected
