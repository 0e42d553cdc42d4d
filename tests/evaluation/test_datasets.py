"""Evaluation on a further data set, and of a model that is not the pipeline's."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from franca.cli import main
from franca.data.store.prepared import Store
from franca.files import read_json, write_json
from franca.models import load_model, random_model, save_model
from franca.params import parse_params, resolve
from franca.paths import MODEL, PREPARED

MakeValues = Callable[..., dict[str, Any]]
MakeStore = Callable[..., Store]
CHANGES = {
    "evaluate.bootstrap_samples": 100,
    "evaluate.knn_k": 5,
    "evaluate.linear_c": [1.0],
    "base.mean": [0.5, 0.5, 0.5],
    "base.std": [0.2, 0.2, 0.2],
    "datasets": {
        "colors": {"path": "sets/colors", "task": "classification"},
        "halves": {"path": "sets/halves", "task": "segmentation"},
    },
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, tiny_values: MakeValues) -> Path:
    """A project with a model and two data sets, which have been prepared and measured by commands."""
    folder = tmp_path_factory.mktemp("project")
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 4), ("test", 4)):
        for channel, name in enumerate(("red", "green")):
            for number in range(count):
                pixels = rng.integers(0, 128, (40, 40, 3))
                pixels[..., channel] += 100
                path = folder / "sets/colors" / split / name / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels.astype(np.uint8)).save(path)
        for number in range(2):
            pixels = rng.integers(0, 128, (48, 64, 3))
            mask = np.zeros((48, 64), np.uint8)
            mask[:, 32:] = 1
            pixels[:, 32:, 0] += 120
            for part, content in (("images", pixels.astype(np.uint8)), ("masks", mask)):
                path = folder / "sets/halves" / split / part / f"{split}{number}_0.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(content).save(path)
    write_json(folder / "sets/halves/classes.json", {"classes": ["left", "right"], "ignore": 255})
    values = tiny_values(CHANGES)
    write_json(folder / "params.yaml", values)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("DVC_ROOT", raising=False)
        params = resolve(parse_params(values, "tiny"))
        save_model(random_model(params.base.model_copy(update={"seed": 9})), MODEL)
        for name in ("colors", "halves"):
            for command in ("prepare", "evaluate"):
                assert main([command, "--dataset", name]) == 0
    return folder


def test_each_set_has_the_benchmarks_that_it_allows(project: Path) -> None:
    colors, halves = (read_json(project / f"results/datasets/{name}/results.json") for name in ("colors", "halves"))
    assert {"knn", "linear", "views", "rank", "position"} <= {row["benchmark"] for row in colors["rows"]}
    assert colors["skipped"]["segmentation"] == "the data have no dense set"
    assert {row["benchmark"] for row in halves["rows"]} == {"segmentation"}
    assert halves["skipped"]["knn"] == "no train images"
    scores = {
        row["model"]: row["value"] for row in halves["rows"] if (row["split"], row["metric"]) == ("test", "miou")
    }
    assert scores["raw_pixels"] > 90 and len(scores) == 4
    assert colors["data_digest"] != halves["data_digest"]
    assert colors["model_digest"] == halves["model_digest"]
    assert read_json(project / "results/datasets/halves/prepare.json")["dense"]["train"] == 2
    plots = {path.name for path in (project / "results/datasets/halves/plots").iterdir()}
    assert plots == {"patch_maps.png", "masks.png"}


def test_another_model_gets_the_scores_that_it_would_get_in_the_pipeline(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    other = tmp_path / "model"
    shutil.copytree(MODEL, other)
    output = tmp_path / "out"
    assert main(["evaluate", "--model", str(other), "--dataset", "colors", "-o", str(output)]) == 0
    ours = read_json(project / "results/datasets/colors/results.json")
    assert read_json(output / "results.json") == ours
    assert (output / "outcomes.npz").read_bytes() == (project / "results/datasets/colors/outcomes.npz").read_bytes()


def test_a_file_of_weights_has_the_digest_of_its_model_folder(project: Path, tmp_path: Path) -> None:
    from franca.models import weights_digest

    model = load_model(project / MODEL)
    assert model.digest == weights_digest(model)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "--dataset", "cub"], "no data set 'cub' (known: colors, halves); add it"),
        (["prepare", "--dataset", "cub"], "no data set 'cub' (known: colors, halves); add it"),
        (["evaluate", "--model", "models/franca"], "--output is missing"),
        (["evaluate", "-o", "out"], "--model is missing"),
        (["evaluate", "--model", "models/franca", "-o", "results/mine"], "is for the pipeline's results"),
        (["evaluate", "--model", "models/none", "-o", "out"], "models/none: no such model"),
        (["evaluate", "--model", "timm:resnet_no", "-o", "out"], "resnet_no"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(
    project: Path,
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(project)
    before = sorted(project.rglob("*"))
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert [path for path in sorted(project.rglob("*")) if "runs" not in path.parts] == [
        path for path in before if "runs" not in path.parts
    ]


def test_a_set_that_is_not_prepared_says_which_stage_prepares_it(
    tmp_path: Path, tiny_values: MakeValues, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    values = tiny_values(CHANGES)
    write_json(tmp_path / "params.yaml", values)
    save_model(random_model(resolve(parse_params(values, "tiny")).base), MODEL)
    assert main(["evaluate", "--dataset", "colors"]) == 2
    assert "run `dvc repro prepare_dataset@colors` first" in capsys.readouterr().err
    assert not PREPARED.exists()
