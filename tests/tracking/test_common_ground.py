"""Models whose results are of different suites are measured before they are compared."""

import json
from pathlib import Path

import pytest

from franca.cli import main
from franca.files import read_json, write_json
from franca.models import random_model, save_model
from franca.params import Params, parse_params, resolve
from franca.paths import MODEL, PREPARED
from franca.stages import evaluate, register
from franca.tracking import history
from franca.tracking.client import connect
from tests.conftest import MakeStore, MakeValues
from tests.tracking.test_promote import aliases

pytestmark = pytest.mark.slow


def run_stages(params: Params, seed: int) -> None:
    """Evaluate and register a random model."""
    resolved = resolve(params)
    save_model(random_model(resolved.base.model_copy(update={"seed": seed})), MODEL)
    write_json(Path("results/pretrain/metrics.json"), {"steps": 1, "fingerprint": f"{seed:012x}"})
    evaluate.run(resolved)
    register.run(params)


def test_the_challenger_of_another_suite_is_measured_with_the_present_one(
    root: Path, tiny_values: MakeValues, make_store: MakeStore, capsys: pytest.CaptureFixture[str]
) -> None:
    """A flow run with other values has registered it; the project's own suite is the champion's."""
    manifest = read_json(make_store(PREPARED) / "manifest.json")
    counts = {split: {"images": 9} for split in ("train", "val", "test")}
    write_json(PREPARED / "manifest.json", manifest | {"source": {"path": "data"}, "counts": counts})
    gate = {"metric": "knn/val/top1", "against": "champion", "min_improvement": 0.0, "floor": None}
    changes = {"evaluate.bootstrap_samples": 100, "register.gates": [gate]}
    ours = parse_params(tiny_values({**changes, "evaluate.knn_k": 5}), "params.yaml")
    theirs = tiny_values({**changes, "evaluate.knn_k": 3, "register.gates": [gate | {"floor": 101.0}]})
    run_stages(ours, seed=1)
    run_stages(parse_params(theirs, "params.yaml"), seed=2)
    assert aliases() == {"champion": "1", "challenger": "2"}
    assert "measuring version 1 on the current data and suite" in capsys.readouterr().err

    (root / "params.yaml").write_text(json.dumps(ours.model_dump(mode="json", by_alias=True)))
    assert main(["promote", "--apply"]) == 0
    printed = capsys.readouterr().err
    assert "measuring version 2 on the current data and suite" in printed and "measuring version 1" not in printed
    assert aliases() == {"champion": "2", "previous": "1"}
    first, other, last = history.read(connect(), "franca")
    assert last.suite == first.suite != other.suite
    assert "same images" in last.gates[0]["sentence"]
