"""Records of cells, and the page that is made of them."""

import json
from pathlib import Path
from typing import Any

import pytest

from franca.errors import FrancaError
from franca.study import records
from franca.study.grid import Cell, Study, expand
from franca.study.page import write_page

WIDTHS = (4, 8, 16)


@pytest.fixture
def study() -> Study:
    rates = {"low": {"pretrain.optimizer.base_lr": 1e-5}, "high": {"pretrain.optimizer.base_lr": 1e-2}}
    return Study(
        name="rates",
        title="Which rate?",
        description="Two of them.",
        start="overhead-cpu",
        seeds=[0, 1, 2],
        compare="rate",
        reference="low",
        axes={"data": {"demo": {"prepare.source": "data/eurosat"}}, "rate": rates},
    )


def record_of(study: Study, cell: Cell, **changes: Any) -> records.Record:
    """The record of a cell by made-up scores: the high rate is better by 2 and a little that varies with the seed."""
    better = (2 + 0.1 * cell.seed) * (cell.options["rate"] == "high")
    parts = {"levels": 1.0, "random_dims": 0.0, "components": 3.0}
    scores: dict[str, Any] = {
        f"{probe}_{part}": {f"top1_{width}": 50 + width + extra + better + cell.seed for width in WIDTHS}
        for probe in ("knn", "linear")
        for part, extra in parts.items()
    }
    whole = {"knn": {"top1": 40.0}, "linear": {"top1": 45.0}}
    run = {"head_parameters": 1000, "device": "cpu", "cpu_capability": "AVX2", "threads": 1, "precision": "fp32"}
    return records.identity(study, cell) | {
        "code": "c",
        "commit": "abc",
        "steps": 400,
        "loss": 1.5,
        "run": run | {"step_ms": 100.0 + cell.seed, "memory_gib": 0.5},
        "scores": {"franca": scores, "random_init": scores, "raw_pixels": whole},
        **changes,
    }


def fill(study: Study, root: Path, **changes: Any) -> list[Cell]:
    cells = expand(study, root, {})
    for cell in cells:
        records.add(study, root, record_of(study, cell, **changes))
    return cells


def test_the_page_has_means_paired_differences_and_costs(study: Study, tmp_path: Path) -> None:
    fill(study, tmp_path)
    write_page(study, tmp_path)
    page = (tmp_path / "docs/studies/rates.md").read_text()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("|")]
    assert ["rate", "of the embedding", *(f"{p} {w}" for p in ("k-NN", "linear") for w in WIDTHS)] in rows
    # Seeds 0 to 2 give 55, 56 and 57: t(0.975, 2) / sqrt(3) = 2.5.
    assert [
        "low",
        "first D",
        "56.0 ± 2.5",
        "60.0 ± 2.5",
        "68.0 ± 2.5",
        *["56.0 ± 2.5", "60.0 ± 2.5", "68.0 ± 2.5"],
    ] in rows
    assert ["high minus low", "first D", *6 * ["**+2.1 ± 0.2**"]] in rows
    assert ["first D minus D components", "low", *6 * ["**-2.0 ± 0.0**"]] in rows
    assert ["high", "3", "1,000", "101", "0.50", "1.50"] in rows
    assert "6 of 6 cells are finished" in page and "raw pixels 40.0 (k-NN), 45.0 (linear)" in page
    assert "different versions" not in page
    figure = (tmp_path / "docs/studies/rates.svg").read_bytes()
    write_page(study, tmp_path)
    assert (tmp_path / "docs/studies/rates.svg").read_bytes() == figure


def test_a_page_of_some_cells_and_of_single_seeds(study: Study, tmp_path: Path) -> None:
    cells = expand(study, tmp_path, {})
    records.add(study, tmp_path, record_of(study, cells[0], code="other", commit="def", run={}, loss=None))
    records.add(study, tmp_path, record_of(study, cells[3]))
    write_page(study, tmp_path)
    page = (tmp_path / "docs/studies/rates.md").read_text()
    assert "2 of 6 cells are finished" in page and "different versions of the code" in page
    assert "| high minus low | first D | +2.0 |" in page
    assert "| low | 1 | - | - | - | - |" in page


def test_images_without_labels_have_costs_alone(study: Study, tmp_path: Path) -> None:
    fill(study, tmp_path, scores={"franca": {"views": {"top1": 50.0}}})
    write_page(study, tmp_path)
    page = (tmp_path / "docs/studies/rates.md").read_text()
    assert "No scores: the images of train or test have no labels." in page and "| low | 3 | 1,000 |" in page


def test_results_of_other_parameters_are_no_part_of_the_page(study: Study, tmp_path: Path) -> None:
    """They are dropped when the study runs with the new ones, those of other cells stay."""
    fill(study, tmp_path)
    axes = {**study.axes, "rate": {**study.axes["rate"], "high": {"pretrain.optimizer.base_lr": 1.0}}}
    changed = study.model_copy(update={"axes": axes})
    write_page(changed, tmp_path)
    assert "3 of 6 cells are finished" in (tmp_path / "docs/studies/rates.md").read_text()
    dropped = records.drop_stale(changed, tmp_path, expand(changed, tmp_path, {}))
    assert len(dropped) == 3 and all("high" in name for name in dropped)
    assert {record["options"]["rate"] for record in records.load(study, tmp_path)} == {"low"}
    assert not records.drop_stale(changed, tmp_path, expand(changed, tmp_path, {}))


def test_records_name_no_path(study: Study, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    axes = {**study.axes, "data": {"own": {"prepare.source": "${photos}", "prepare.dense_source": None}}}
    own = study.model_copy(update={"axes": axes, "params": {"pretrain.dense_share": 0.0}})
    cell = expand(own, tmp_path, {"photos": str(tmp_path / "photos")})[0]
    assert str(tmp_path) not in json.dumps(records.identity(own, cell))


def test_no_results_and_a_broken_file_are_one_line(study: Study, tmp_path: Path) -> None:
    with pytest.raises(FrancaError, match=r"rates\.json: no results of these cells; run the study"):
        write_page(study, tmp_path)
    records.path_of(study, tmp_path).parent.mkdir(parents=True)
    for text in ("{", "[]", "{}"):
        records.path_of(study, tmp_path).write_text(text)
        with pytest.raises(FrancaError, match=r"rates\.json: not the results of a study"):
            write_page(study, tmp_path)


def test_costs_are_read_from_the_runs_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pause, as between a kill and the next start, does not count; readings without losses do neither."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs/pretrain-f"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"head_parameters": 7, "host": "here", "device": "cpu"}))
    readings = [(2, 10.0), (4, 10.2), (6, 10.4), (8, 99.0), (10, 99.2)]
    lines = [{"step": s, "time": t, "metrics": {"train/loss": 1.0, "train/memory_gib": s / 10}} for s, t in readings]
    lines.insert(1, {"step": 3, "time": 50.0, "metrics": {"knn": 1.0}})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for stage, content in {
        "evaluate/results.json": {"model_digest": "m", "rows": []},
        "pretrain/metrics.json": {"steps": 10, "loss": 1.0, "fingerprint": "f"},
    }.items():
        path = tmp_path / "results" / stage
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(content))
    run = records.measure(tmp_path, tmp_path / "runs")["run"]
    assert (run["head_parameters"], run["step_ms"], run["memory_gib"]) == (7, 100.0, 1.0)
    assert "host" not in run
    (folder / "run.json").unlink()
    assert records.measure(tmp_path, tmp_path / "runs")["run"] == {}
