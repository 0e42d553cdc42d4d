"""Cells of benchmarks.quality on a tiny store, without lightly, which the tests do not need."""

import json
from pathlib import Path

import pytest

from benchmarks import quality, quality_page
from benchmarks.quality_methods import METHODS, Franca
from tests.conftest import MakeStore, MakeValues


@pytest.fixture
def setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_store: MakeStore, tiny_values: MakeValues
) -> quality.Setting:
    make_store(tmp_path / "prepared")
    (tmp_path / "params.yaml").write_text(json.dumps(tiny_values()))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(quality, "RESULTS", tmp_path / "quality.json")
    monkeypatch.setattr(quality_page, "PAGE", tmp_path / "QUALITY.md")
    monkeypatch.setattr(quality, "ROUNDS", 1)
    monkeypatch.setattr(quality, "STEPS_PER_ROUND", 1)
    for name in set(METHODS) - {"Franca", "Franca without nesting"}:
        monkeypatch.delitem(METHODS, name)
    return quality.Setting(Path("params.yaml"))


def test_finished_cells_are_kept_and_methods_share_the_time(setting: quality.Setting) -> None:
    quality.measure(setting, 2e-3, 1, ["Franca"])
    first = json.loads(quality.RESULTS.read_text())
    quality.measure(setting, 2e-3, 1, list(METHODS))
    records = json.loads(quality.RESULTS.read_text())

    assert records[: len(first)] == first
    cells = {record["method"]: record for record in records if "method" in record}
    assert list(cells) == ["random weights", "raw pixels", "Franca", "Franca without nesting"]
    for name, seconds in records[0]["seconds"].items():
        assert cells[name]["steps"] == max(round(0.12 / seconds), 1)
    # The class is the mean color.
    assert cells["raw pixels"]["scores"] == {"val": 100.0}
    page = quality_page.PAGE.read_text()
    assert all(f"| {name} |" in page for name in cells)


def test_a_cell_trains_the_model_that_it_scores(setting: quality.Setting) -> None:
    trained, again, other = (quality.train(setting, "Franca", seed, 3).backbone.state_dict() for seed in (0, 0, 1))
    start = Franca(setting.seeded(0), setting.device).backbone.state_dict()
    name = "blocks.0.attn.qkv.weight"
    assert trained[name].equal(again[name])
    assert not trained[name].equal(other[name])
    assert not trained[name].equal(start[name])
