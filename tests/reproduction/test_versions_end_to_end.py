"""Two short runs become versions; the second is promoted and rolled back, and its run is not reproduced as another."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from franca.files import read_json
from franca.params.render import dump
from franca.tracking.client import connect
from franca.yaml_file import read_yaml
from tests.conftest import set_value
from tests.reproduction.conftest import dvc, franca, run

NOT_WORSE = {"metric": "knn/val/top1", "against": "champion", "min_improvement": 0.0, "floor": None}


def change(file: Path, **values: Any) -> None:
    """Change values of a params.yaml; `__` in a name stands for a dot."""
    tree = read_yaml(file)
    for name, value in values.items():
        set_value(tree, name.replace("__", "."), value)
    file.write_text(dump(tree))


def state() -> tuple[dict[str, str], dict[str, str]]:
    """Return the aliases of the model, and the reasons of its rejected versions."""
    client = connect()
    aliases = {alias: str(number) for alias, number in client.get_registered_model("franca").aliases.items()}
    versions = client.search_model_versions("name = 'franca'")
    reasons = {str(version.version): version.tags.get("franca.rejected") for version in versions}
    return aliases, {number: reason for number, reason in reasons.items() if reason}


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_a_second_version_is_promoted_and_rolled_back_and_its_run_is_not_reproduced_by_other_parameters(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DVC_ROOT", str(project))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    change(project / "params.yaml", register__gates=[NOT_WORSE])
    dvc(project, "repro")
    assert state() == ({"champion": "1"}, {})
    change(project / "params.yaml", disentangle__rounds=2)
    assert "Running stage 'pretrain'" not in dvc(project, "repro")
    assert state() == ({"champion": "2", "previous": "1"}, {})

    said = franca(project, "rollback", "--reason", "blurs roads")
    assert said.splitlines() == ["franca: champion 2 -> 1", "rejected: version 2", "previous: none"]
    aliases, rejected = state()
    assert aliases == {"champion": "1"} and list(rejected) == ["2"] and rejected["2"].endswith(": blurs roads")
    # The files are those of version 2, whose gates still hold.
    dvc(project, "repro")
    assert state() == (aliases, rejected)

    moves = [
        (e["action"], e["version"], e["before"], e["after"]) for e in json.loads(franca(project, "history", "--json"))
    ]
    assert moves[:3] == [("promoted", "1", None, "1"), ("promoted", "2", "1", "2"), ("rolled back", "1", "2", "1")]
    assert {after for *_, after in moves[3:]} <= {"1"}
    shown = [line.split("  ", 1)[1] for line in franca(project, "history").splitlines() if line[0] != " "]
    ends = ("champion none -> 1", "champion 1 -> 2", "champion 2 -> 1")
    assert all(line.endswith(end) for line, end in zip(shown, ends, strict=False))
    assert shown[2].startswith("version 1 rolled back by ") and "    blurs roads" in franca(project, "history")

    check_reproduction(project, read_json(project / "results/register/receipt.json")["run_id"])


def check_reproduction(project: Path, run_id: str) -> None:
    """Check what `franca reproduce` says of a run whose recorded parameters were changed on the server."""
    [recorded] = project.glob(f"mlartifacts/**/{run_id}/artifacts/params.yaml")
    original = recorded.read_bytes()
    shutil.copytree(project / "models/franca", project / "models/mine")
    change(recorded, pretrain__init="models/mine")
    said = franca(project, "reproduce", run_id, code=2)
    assert "pretrain.init: models/mine: git does not track it" in said.splitlines()[-1]

    recorded.write_bytes(original)
    change(recorded, disentangle__rounds=3)
    said = franca(project, "reproduce", run_id, "--output", "verdict.json", code=3)
    verdict = read_json(project / "verdict.json")
    assert not verdict["equal"] and not verdict["weights"] and verdict["first_difference"] == "disentangle"
    assert f"run {run_id}, commit" in said and ": DIFFERENT" in said
    assert "the first stage with other outputs is disentangle" in said
    assert said.splitlines()[-1] == f"franca: {run_id}: reproduced with other results"
    assert run(project, "git", "worktree", "list").count("\n") == 1
