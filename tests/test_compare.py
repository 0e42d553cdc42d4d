"""`franca compare` on folders and on registered versions: tables, files, and what it refuses."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from franca.benchmarks import PROTOCOL
from franca.cli import main
from franca.errors import FrancaError
from franca.evaluation.outcomes import FILE, Outcome, write_outcomes
from franca.files import read_json, write_json

Write = Callable[..., str]
SUITE = {"protocol": PROTOCOL, "knn_k": 20, "bootstrap_samples": 500, "confidence": 0.95}
N = 400


def row(benchmark: str, metric: str, value: float) -> dict[str, Any]:
    about = {"model": "franca", "benchmark": benchmark, "split": "test", "metric": metric}
    return about | {"value": value, "low": value - 5, "high": min(value + 5, 100.0), "n": N}


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write an evaluation whose model is right on the first `right` of 400 images; return its folder."""
    monkeypatch.chdir(tmp_path)

    def write(name: str, right: int, *, outcomes: bool = True, **changes: Any) -> str:
        hits = np.arange(N) < right
        rows = [
            row("knn", "top1", right / 4),
            row("knn_levels", "top1_8", right / 4),
            row("position", "r2", right / 10),
        ]
        content = {"data_digest": "d" * 64, "model_digest": name * 8, "suite": SUITE, "rows": rows, "skipped": {}}
        write_json(Path(name) / "results.json", content | changes)
        if outcomes:
            keys = [("franca", "knn", "test", "top1"), ("franca", "knn_levels", "test", "top1_8")]
            write_outcomes(Path(name) / FILE, {key: Outcome("hits", hits, "same", N) for key in keys}, name * 8)
        return name

    return write


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["compare", *arguments]) == 2
    told = capsys.readouterr().err
    assert told.startswith("franca: ") and told.count("\n") == 1
    return told.removeprefix("franca: ").strip()


def test_a_table_with_paired_differences_to_the_first(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", write("one", 200), write("two", 220), write("three", 180, outcomes=False)]) == 0
    head, score, gap, position, *_ = capsys.readouterr().out.splitlines()
    assert head.split() == ["one", "two", "three"]
    assert score.startswith("k-NN on test") and "50.0 [45.0, 55.0]" in score and "55.0 [50.0, 60.0]" in score
    assert gap.startswith("  minus one") and "+5.0 [+3.0, +7.4]" in gap and "-5.0 [-12.1, +2.1] unpaired" in gap
    assert position.startswith("position R2 on test (less is better)  ")


def test_json_csv_and_a_page(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = write("one", 200), write("<b>two", 220)
    assert main(["compare", first, second, "--json", "-o", "out/comparison"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == read_json(Path("out/comparison/comparison.json"))
    assert [model["name"] for model in printed["models"]] == ["one", "<b>two"]
    knn = next(found for found in printed["differences"] if found["benchmark"] == "knn")
    assert (knn["model"], knn["against"], knn["value"], knn["paired"]) == ("<b>two", "one", 5.0, True)
    lines = list(csv.DictReader(Path("out/comparison/comparison.csv").read_text().splitlines()))
    assert len(lines) == 6
    assert [line["difference"] for line in lines if line["benchmark"] == "knn_levels"] == ["", "5.0"]
    page = Path("out/comparison/comparison.html").read_text()
    assert "&lt;b&gt;two compared with one" in page and "<b>two" not in page and "<script" not in page
    assert '<td class="says better">better</td>' in page and '<td class="says worse">' not in page
    assert main(["compare", first, second, "-o", "again"]) == 0
    assert Path("again/comparison.html").read_text() == page


def test_other_rules_or_other_images_are_refused(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    first = write("one", 200)
    older = write(
        "old", 200, suite={name: value for name, value in SUITE.items() if name != "protocol"} | {"knn_k": 5}
    )
    message = refused(capsys, first, older)
    assert message.startswith("old: cannot be compared with one: suite knn_k 5 instead of 20; suite protocol missing")
    assert "data digest" not in message and "`franca evaluate --model SOURCE --output FOLDER`" in message
    other = write("other", 200, data_digest="e" * 64)
    assert "other: cannot be compared with one: data digest eeeeeeeeeeee instead of dddddddddddd;" in refused(
        capsys, first, other
    )
    assert not Path("out").exists()


def test_what_is_no_evaluation_is_refused(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    first = write("one", 200)
    assert refused(capsys, first, "nowhere").startswith("nowhere/results.json: no such file; name the folder of")
    write_json(Path("checkout/results/evaluate/results.json"), {})
    assert refused(capsys, first, "checkout").endswith("no such file; name checkout/results/evaluate")
    for name, content in (
        ("text", "no JSON"),
        ("list", "[]"),
        ("empty", "{}"),
        ("rows", json.dumps({"data_digest": "", "model_digest": "", "suite": SUITE, "rows": [{}]})),
        ("suite", json.dumps({"data_digest": "", "model_digest": "", "suite": {}, "rows": []})),
    ):
        Path(name).mkdir()
        (Path(name) / "results.json").write_text(content)
        assert refused(capsys, first, name).startswith(f"{name}/results.json: "), name
    impossible = write("much", 200, rows=[row("knn", "top1", 170.0)])
    assert "knn/test/top1 of franca is 170 %, which is impossible" in refused(capsys, first, impossible)
    assert "named twice" in refused(capsys, first, first)
    assert "nothing to compare it with" in refused(capsys, first)
    lonely = write("lonely", 200, rows=[row("linear", "top1", 50.0)])
    assert "have no score in common" in refused(capsys, first, lonely)


def test_the_error_is_that_of_the_library(write: Write) -> None:
    from franca import compare

    with pytest.raises(FrancaError, match="no such file"):
        compare.read("nowhere")
