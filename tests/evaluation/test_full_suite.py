"""The full suite, measured, stored and checked like the fast one."""

from collections.abc import Callable
from pathlib import Path

import pytest

from franca.benchmarks import BENCHMARKS
from franca.data.store.prepared import Store
from franca.evaluation.comparison import Evidence
from franca.evaluation.outcomes import FILE, read_outcomes
from franca.files import read_json
from franca.models import random_model, save_model
from franca.params import ResolvedParams
from franca.paths import MODEL, PREPARED
from franca.stages import evaluate as stage
from franca.tracking.score_check import check_scores


@pytest.mark.slow
def test_every_benchmark_is_measured_and_its_scores_are_possible(
    tiny_params: Callable[..., ResolvedParams],
    make_store: Callable[..., Store],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("franca.evaluation.benchmarks.novelty.MIN_CLASSES", 3)
    params = tiny_params(
        {"evaluate.suite": "full", "evaluate.bootstrap_samples": 100, "evaluate.in_context_memory": 500}
    )
    save_model(random_model(params.base.model_copy(update={"seed": 9})), MODEL)
    make_store(PREPARED, counts={"train": 36, "val": 12, "test": 12})
    stage.run(params)
    results = read_json(Path("results/evaluate/results.json"))
    assert results["skipped"] == {}
    measured = {benchmark.name for benchmark in BENCHMARKS if "videos" not in benchmark.needs}
    assert {row["benchmark"] for row in results["rows"]} == measured
    assert {row["metric"] for row in results["rows"] if row["benchmark"] == "few_shot"} == {
        "top1_1",
        "top1_5",
        "top1_10",
    }
    evidence = Evidence(results, read_outcomes(Path("results/evaluate") / FILE, results["model_digest"]))
    assert len(evidence.outcomes) == len(results["rows"])
    check_scores(evidence, "results")
    assert all(row["paired"] for row in results["differences"])
    tables = capsys.readouterr().out.partition("Verdict:")[0]
    assert "in-context mIoU" in tables and max(map(len, tables.splitlines())) < 200
