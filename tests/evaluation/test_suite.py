import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from franca.benchmarks import TITLES
from franca.data.store.prepared import Store
from franca.errors import FrancaError
from franca.evaluation import suite
from franca.evaluation.comparison import Evidence, compare
from franca.evaluation.intervals import Resampling
from franca.evaluation.outcomes import read_outcomes
from franca.models import FrancaModel, random_model, save_model
from franca.params import Gate, ResolvedParams
from franca.paths import MODEL, PREPARED
from franca.stages import evaluate as stage
from franca.tracking.gates import check_gates

MakeParams = Callable[..., ResolvedParams]
MakeStore = Callable[..., Store]
PLOTS = Path("results/evaluate/plots")
ROWS = (
    ("knn", "val", "top1"),
    ("segmentation", "test", "miou"),
    ("position", "val", "r2"),
    ("rank", "test", "rankme"),
)


def start(tiny_params: MakeParams) -> ResolvedParams:
    """Put a model of other weights than its random twin's into the current folder."""
    params = tiny_params({"evaluate.bootstrap_samples": 100, "evaluate.knn_k": 5, "evaluate.linear_c": [1.0]})
    save_model(random_model(params.base.model_copy(update={"seed": 9})), MODEL)
    return params


@pytest.fixture
def params(tiny_params: MakeParams, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ResolvedParams:
    """A project folder with that model."""
    monkeypatch.chdir(tmp_path)
    return start(tiny_params)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_params: MakeParams, make_store: MakeStore) -> Path:
    """A project folder in which the whole stage has run; tests only read it."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        params = start(tiny_params)
        make_store(PREPARED)
        stage.run(params)
    return folder


def _digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_whole_stage_twice(
    params: ResolvedParams, make_store: MakeStore, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = make_store(PREPARED)
    shutil.copytree(finished / "results", "results")
    first = _digests(Path("results"))
    stale = PLOTS / "of-an-older-run.png"
    stale.touch()
    capsys.readouterr()
    stage.run(params)
    printed = capsys.readouterr().out
    assert _digests(Path("results")) == first
    assert {Path(name).name for name in first} == {
        "results.json",
        "outcomes.npz",
        "metrics.json",
        "report.html",
        "knn_by_level.csv",
        "knn_by_level.png",
        "confusion.csv",
        "confusion.png",
        "patch_maps.png",
        "masks.png",
    }

    results = json.loads(Path("results/evaluate/results.json").read_text())
    assert results["data_digest"] == store.digest
    assert results["suite"] == params.evaluate.comparable
    assert results["skipped"] == {}
    keys = {(row["model"], row["benchmark"], row["split"], row["metric"]) for row in results["rows"]}
    assert len(keys) == len(results["rows"])
    for model in TITLES:
        for benchmark, metric in (("knn", "top1"), ("linear", "top1"), ("segmentation", "miou"), ("position", "r2")):
            assert {(model, benchmark, split, metric) for split in ("val", "test")} <= keys
    assert all(0 <= row["low"] <= row["value"] <= row["high"] <= 100 for row in results["rows"])
    others = [model for model in TITLES if model != "franca"]
    told = {(row["against"], row["benchmark"], row["split"]) for row in results["differences"] if row["paired"]}
    assert told == {
        (model, benchmark, split)
        for model in others
        for benchmark in (
            "knn",
            "linear",
            "segmentation",
            "position",
            "views",
            *(["rank"] if model == "random_init" else []),
        )
        for split in ("val", "test")
    }
    for benchmark in ("knn_random_dims", "knn_components"):
        widths = {
            row["metric"] for row in results["rows"] if (row["model"], row["benchmark"]) == ("raw_pixels", benchmark)
        }
        assert widths == {f"top1_{width}" for width in (2, 4, 8, 16, 32)}
    metrics = json.loads(Path("results/evaluate/metrics.json").read_text())
    for probe in ("knn", "linear"):
        for part in ("levels", "random_dims", "components"):
            assert set(metrics[f"{probe}_{part}"]["test"]) == {f"top1_{width}" for width in (2, 4, 8, 16, 32)}
        assert metrics[probe]["val"]["top1"] == metrics[f"{probe}_levels"]["val"]["top1_32"]

    assert "same ViT, random weights" in printed and "On test, 95 % intervals" in printed
    assert "Verdict: " in printed
    report = Path("results/evaluate/report.html").read_text()
    assert report.count('<div class="picture">') == 2 and "Nearest neighbors" in report
    lines = (PLOTS / "confusion.csv").read_text().splitlines()
    assert lines[0] == "actual,predicted" and len(lines) == 10
    header, first_line, *_ = (PLOTS / "knn_by_level.csv").read_text().splitlines()
    assert header.startswith("dim,val,test,franca_random_dims_val,franca_random_dims_test,franca_components_val,")
    assert "random_init_levels_test" in header and "raw_pixels_components_test" in header
    assert first_line.startswith("2,") and first_line.count(",") == header.count(",")
    with Image.open(PLOTS / "masks.png") as picture:
        assert "Software" not in picture.info


def test_comparators_stand_beside_the_model(
    params: ResolvedParams, tiny_params: MakeParams, make_store: MakeStore, capsys: pytest.CaptureFixture[str]
) -> None:
    """A benchmark that is skipped for one of them still counts for the model."""
    make_store(PREPARED)
    folders = [Path("models/larger"), Path("models/timm"), Path("models/one_patch")]
    save_model(random_model(tiny_params({"base.backbone.depth": 3}).base), folders[0])
    save_model(FrancaModel("vit_tiny_patch16_224", 48, (0.5,) * 3, (0.5,) * 3), folders[1])
    one_patch = params.base.backbone.model_copy(update={"patch_size": 32})
    save_model(random_model(params.base.model_copy(update={"backbone": one_patch})), folders[2])
    evaluate = params.evaluate.model_copy(update={"comparators": [str(folder) for folder in folders]})
    stage.run(params.model_copy(update={"evaluate": evaluate}))
    results = json.loads(Path("results/evaluate/results.json").read_text())
    rows = results["rows"]
    benchmarks = {name: {row["benchmark"] for row in rows if row["model"] == name} for name in ("larger", "timm")}
    nested = {"knn_levels", "linear_levels", "linear_random_dims", "linear_components"}
    assert benchmarks["timm"] == benchmarks["larger"] - nested >= {"knn", "linear", "segmentation", "position"}
    printed = capsys.readouterr().out
    assert "\nlarger" in printed and "\ntimm" in printed

    reason = "an image has a single row or column of patches"
    assert results["skipped"] == {"baseline/one_patch/position": reason}
    asked = Gate(metric="position/val/r2", against="random", min_improvement=0, floor=101)
    (verdict,) = check_gates([asked], Evidence(results), None, seed=0)
    assert "not measured" not in verdict.sentence


def test_another_model_by_the_same_suite(
    params: ResolvedParams, make_store: MakeStore, finished: Path, tmp_path: Path
) -> None:
    store = make_store(PREPARED)
    own = json.loads((finished / "results/evaluate/results.json").read_text())
    again = suite.evaluate_model(MODEL, store, params)
    rows = [row for row in own["rows"] if row["model"] == "franca"]
    assert json.loads(json.dumps(again.results)) == own | {"rows": rows, "differences": []}
    kept = read_outcomes(finished / "results/evaluate/outcomes.npz", own["model_digest"])
    assert again.outcomes.keys() == {key for key in kept if key[0] == "franca"}
    same = [compare(again, Evidence(own, kept), "franca", *key, Resampling.of(params)) for key in ROWS]
    assert all(difference and difference.paired and difference.value == 0 for difference in same)

    larger = params.base.model_copy(
        update={"image_size": 64, "backbone": params.base.backbone.model_copy(update={"patch_size": 16})}
    )
    save_model(random_model(larger), tmp_path / "larger")
    other = suite.evaluate_model(tmp_path / "larger", store, params)
    assert other.results["model_digest"] != own["model_digest"]
    assert [row["metric"] for row in other.results["rows"]] == [row["metric"] for row in rows]


def test_data_without_labels_and_masks(
    params: ResolvedParams, make_store: MakeStore, capsys: pytest.CaptureFixture[str]
) -> None:
    make_store(PREPARED, labeled=(), dense_counts=None)
    stage.run(params)
    results = json.loads(Path("results/evaluate/results.json").read_text())
    assert results["skipped"] == {
        "knn": "the train images have no labels",
        "linear": "the train images have no labels",
        "segmentation": "the data have no dense set",
    }
    assert {row["benchmark"] for row in results["rows"]} == {"position", "views", "rank"}
    assert PLOTS.is_dir() and not list(PLOTS.iterdir())
    assert "Skipped: knn (the train images have no labels)" in capsys.readouterr().out


def test_empty_splits(params: ResolvedParams, make_store: MakeStore) -> None:
    make_store(PREPARED, counts={"train": 24, "val": 9, "test": 0}, dense_counts={"train": 4, "val": 2, "test": 0})
    stage.run(params)
    skipped = json.loads(Path("results/evaluate/results.json").read_text())["skipped"]
    assert skipped == {
        f"{name}/test": "no test images for it"
        for name in ("knn", "linear", "segmentation", "position", "views", "rank")
    }
    assert (PLOTS / "knn_by_level.csv").read_text().splitlines()[1].split(",")[2] == ""
    assert (PLOTS / "masks.png").is_file()

    store = make_store(
        PREPARED, counts={"train": 24, "val": 0, "test": 9}, dense_counts={"train": 4, "val": 0, "test": 2}
    )
    assert suite.evaluate_model(MODEL, store, params).results["skipped"] == {
        "knn/val": "no val images for it",
        "linear": "no val images",
        "segmentation": "the dense set has no val image with a label",
        "position/val": "no val images for it",
        "rank/val": "no val images for it",
        "views/val": "no val images for it",
    }


def test_no_model_is_one_clear_line(params: ResolvedParams, make_store: MakeStore) -> None:
    make_store(PREPARED)
    (MODEL / "model.safetensors").unlink()
    with pytest.raises(FrancaError, match=r"model\.safetensors"):
        stage.run(params)


@pytest.mark.parametrize(
    ("kinds", "skipped"),
    [
        (
            {"train": 1},
            {"knn": "the train images have a single class", "linear": "the train images have a single class"},
        ),
        (
            {"val": 1},
            {"knn/val": "the val images have a single class", "linear": "the val images have a single class"},
        ),
        ({"test": 1}, {f"{name}/test": "the test images have a single class" for name in ("knn", "linear")}),
    ],
)
def test_a_single_class_is_not_scored(
    params: ResolvedParams, make_store: MakeStore, kinds: dict[str, int], skipped: dict[str, str]
) -> None:
    store = make_store(PREPARED, kinds=kinds, dense_counts=None)
    results = suite.evaluate_model(MODEL, store, params).results
    reasons = {name: reason for name, reason in results["skipped"].items() if name != "segmentation"}
    assert reasons == skipped
    labeled = {(row["benchmark"].split("_")[0], row["split"]) for row in results["rows"]} - {
        (name, split) for name in ("position", "views", "rank") for split in ("val", "test")
    }
    lone = next(iter(kinds))
    assert not {pair for pair in labeled if pair[1] == lone or lone == "train"}


def test_masks_of_a_single_class_are_not_scored(params: ResolvedParams, make_store: MakeStore) -> None:
    store = make_store(PREPARED, mask_kinds=1)
    results = suite.evaluate_model(MODEL, store, params).results
    assert results["skipped"] == {"segmentation": "the masks of the dense set's train images have a single class"}
