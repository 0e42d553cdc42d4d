"""The register stage on a small model, from files to a complete run and one version on the server."""

import json
import shutil
from pathlib import Path

import mlflow
import numpy as np
import pytest

from franca.errors import FrancaError
from franca.files import read_json, sha256_file, write_json
from franca.models import load_model
from franca.params import Params, load_params, parse_params
from franca.stages import register
from franca.tracking import promote
from franca.tracking.client import connect
from franca.tracking.flavor import Embedder
from franca.tracking.links import links as page_links
from tests.tracking.conftest import Finish, Server, row

RECEIPT = Path("results/register/receipt.json")
BETTER = {"metric": "knn/val/top1", "against": "champion", "min_improvement": 0.5, "floor": None}


def versions() -> list[int]:
    return sorted(int(version.version) for version in connect().search_model_versions("name = 'franca'"))


def aliases() -> dict[str, str]:
    return {alias: str(version) for alias, version in connect().get_registered_model("franca").aliases.items()}


def with_gates(params: Params, *gates: dict[str, object]) -> Params:
    values = params.model_dump(by_alias=True)
    return parse_params(values | {"register": values["register"] | {"gates": list(gates)}}, "params.yaml")


def test_first_model_becomes_champion_and_its_run_is_complete(
    finish: Finish, params: Params, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DVC_EXP_NAME", "brave-owl")
    finish()
    Path("runs/stages.jsonl").write_text('{"stage": "pretrain", "started": 1, "seconds": 12.5, "status": "done"}\n')
    register.run(params)

    receipt = read_json(RECEIPT)
    assert (receipt["version"], receipt["aliases"]) == ("1", ["champion"])
    assert "all gates hold with no champion yet" in capsys.readouterr().out
    client = connect()
    run = client.get_run(receipt["run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.metrics["knn/val/top1"] == 70.0
    assert run.data.metrics["disentangle/r2/after"] == 0.1
    assert not [name for name in run.data.metrics if name.startswith(("baseline/", "prepare/"))]
    table = Path(client.download_artifacts(run.info.run_id, "scores.csv")).read_text().splitlines()
    assert table[0] == 'data set,benchmark,split,metric,this model,"same ViT, random weights",raw pixels'
    assert table[2] == ',knn,val,top1,"70.0 [69.0, 71.0]","40.0 [39.0, 41.0]","44.0 [43.0, 45.0]"'
    assert run.data.metrics["seconds/pretrain"] == 12.5
    assert len(client.get_metric_history(run.info.run_id, "train/loss")) == 5
    assert run.data.params["pretrain.optimizer.base_lr"] == "0.001"
    assert run.data.tags["DVC_EXP_NAME"] == "brave-owl"
    assert run.data.tags["franca.run.host"] == "here"
    assert run.data.tags["franca.digest"] == receipt["digest"] == sha256_file(Path("models/franca/model.safetensors"))
    assert run.inputs
    datasets = [item.dataset for item in run.inputs.dataset_inputs]
    named = {dataset.name: json.loads(dataset.profile or "") for dataset in datasets}
    assert named == {"small-train": {"images": [80]}, "small-val": {"images": [10]}, "small-test": {"images": [10]}}
    assert {dataset.digest for dataset in datasets} == {"d" * 36}
    for path in ("params.yaml", "results/evaluate/results.json", "lineage/packages.txt", "lineage/manifest.json"):
        assert Path(client.download_artifacts(run.info.run_id, path)).stat().st_size > 0
    model = client.get_logged_model(receipt["model_id"])
    scores = {metric.key: (metric.value, metric.dataset_name) for metric in model.metrics or []}
    assert scores["knn/val/top1"] == (70.0, "small-val")
    assert scores["knn/test/top1"] == (69.0, "small-test")


def test_parameters_of_another_file_with_auto(finish: Finish, params: Params, root: Path) -> None:
    """`franca --params other.yaml register` reads no params.yaml, and MLflow shows numbers for `auto`."""
    values = params.model_dump(by_alias=True)
    values["base"] |= {"mean": "auto", "std": "auto"}
    automatic = parse_params(values, "other.yaml")
    finish()
    (root / "params.yaml").unlink()
    register.run(automatic)
    client = connect()
    run = client.get_run(read_json(RECEIPT)["run_id"])
    config = read_json(root / "models/franca/config.json")
    assert json.loads(run.data.params["base.mean"]) == config["mean"] == list(params.base.mean)
    assert json.loads(run.data.params["base.std"]) == config["std"]
    assert load_params(Path(client.download_artifacts(run.info.run_id, "params.yaml"))) == automatic


def test_model_loads_from_the_registry_and_contains_no_code(finish: Finish, params: Params, root: Path) -> None:
    finish()
    register.run(params)
    loaded = mlflow.pyfunc.load_model("models:/franca@champion")
    images = np.random.default_rng(0).integers(0, 256, (70, 16, 16, 3), dtype=np.uint8)
    embeddings = loaded.predict(images)
    assert embeddings.dtype == np.float32
    np.testing.assert_array_equal(embeddings, Embedder(load_model(Path("models/franca"))).predict(images))
    (tensor,) = loaded.metadata.signature.inputs.inputs
    assert (tensor.type, tensor.shape) == (np.dtype("uint8"), (-1, 16, 16, 3))
    assert loaded.metadata.signature.outputs.inputs[0].shape == (-1, 16)

    folder = Path(mlflow.artifacts.download_artifacts("models:/franca/1"))
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".yaml", ".txt", ""}
    for path in files:
        content = path.read_bytes()
        assert str(root).encode() not in content, path
        assert b"file://" not in content, path
        assert not content.startswith(b"\x80"), f"{path} may be a pickle"
    requirements = (folder / "requirements.txt").read_text()
    assert "torch==" in requirements
    assert "+cpu" not in requirements


def test_predict_rejects_other_arrays_in_one_line(finish: Finish) -> None:
    finish()
    model = Embedder(load_model(Path("models/franca")))
    good = np.zeros((2, 16, 16, 3), np.uint8)
    assert model.predict(good[:0]).shape == (0, 16)
    for bad in (good.astype(np.float32), good[:, :8], good[0], good.transpose(0, 3, 1, 2), [[1]]):
        with pytest.raises(FrancaError, match=r"^images must be a uint8 array of shape \(N, 16, 16, 3\), not [^\n]*$"):
            model.predict(bad)  # type: ignore[arg-type]
    for black in (good, np.random.default_rng(0).random(good.shape).astype(np.uint8)):
        with pytest.raises(FrancaError, match=r"^images: all values are 0 or 1, [^\n]*; send values in 0..255$"):
            model.predict(black)


def test_second_run_adds_nothing(finish: Finish, params: Params) -> None:
    finish()
    register.run(params)
    first = read_json(RECEIPT)
    client = connect()
    client.set_registered_model_alias("franca", "challenger", "1")
    client.delete_registered_model_alias("franca", "champion")
    register.run(params)
    assert versions() == [1]
    second = read_json(RECEIPT)
    assert second["aliases"] == ["challenger"], "what people did to the aliases stands"
    changed = {"aliases", "server"}
    assert {name: second[name] for name in second.keys() - changed} == {
        name: first[name] for name in first.keys() - changed
    }
    history = client.get_metric_history(first["run_id"], "knn/val/top1")
    assert len(history) == 1


def test_same_weights_with_other_results_make_no_second_version(finish: Finish, params: Params) -> None:
    finish(knn=70)
    register.run(params)
    first = read_json(RECEIPT)
    finish(knn=71)
    register.run(params)
    second = read_json(RECEIPT)
    assert versions() == [1]
    assert second["run_id"] != first["run_id"]
    assert connect().get_run(second["run_id"]).data.metrics["knn/val/top1"] == 71.0
    assert len(connect().get_metric_history(second["run_id"], "train/loss")) == 5


def test_worse_model_stays_challenger_and_better_one_takes_over(finish: Finish, params: Params) -> None:
    finish(seed=0, knn=70, linear=80)
    register.run(params)
    finish(seed=1, knn=75, linear=60)
    register.run(params)
    receipt = read_json(RECEIPT)
    assert (receipt["version"], receipt["aliases"]) == ("2", ["challenger"])
    assert receipt["decision"][0] == "stays challenger: linear/val/top1 failed against champion version 1"
    finish(seed=2, knn=75, linear=80)
    register.run(params)
    receipt = read_json(RECEIPT)
    assert (receipt["version"], receipt["aliases"]) == ("3", ["champion"])
    client = connect()
    assert aliases() == {"champion": "3", "previous": "1"}, "the challenger's alias is used up"
    assert client.get_model_version("franca", "3").tags["franca.decision"].splitlines() == receipt["decision"]


def test_receipt_reports_a_champion_alias_set_by_hand(finish: Finish, params: Params) -> None:
    finish(seed=0, knn=70, linear=80)
    register.run(params)
    finish(seed=1, knn=75, linear=60)
    register.run(params)
    client = connect()
    client.set_registered_model_alias("franca", "champion", "2")
    client.delete_registered_model_alias("franca", "challenger")
    register.run(params)
    receipt = read_json(RECEIPT)
    assert (receipt["version"], receipt["aliases"]) == ("2", ["champion"])
    assert receipt["decision"] == [
        "it is the champion, by an alias that was set by hand",
        "the gates had said: stays challenger: linear/val/top1 failed against champion version 1",
    ]
    client.set_registered_model_alias("franca", "champion", "1")
    register.run(params)
    assert read_json(RECEIPT)["decision"][0].startswith("stays challenger")


def test_first_model_below_the_floor_is_not_champion(finish: Finish, params: Params) -> None:
    finish(knn=70)
    register.run(
        with_gates(params, {"metric": "knn/val/top1", "against": "champion", "min_improvement": 0.0, "floor": 90.0})
    )
    assert read_json(RECEIPT)["aliases"] == ["challenger"]
    register.run(params)
    assert read_json(RECEIPT)["aliases"] == ["champion"], "other gates judge anew"


def test_a_model_not_better_than_its_baselines_gets_no_alias(
    finish: Finish, params: Params, capsys: pytest.CaptureFixture[str]
) -> None:
    finish(seed=0, knn=41, baseline=40.6)
    register.run(params)
    receipt = read_json(RECEIPT)
    assert (receipt["version"], receipt["aliases"]) == ("1", [])
    first, advice, skipped, *rest = receipt["decision"]
    assert first == (
        "not shown to be better than the same ViT with random weights and raw pixels (knn/val/top1), so it gets no"
        " alias"
    )
    assert "the run has only 40 steps" in advice and "only 80 training images" in advice and "base_lr" in advice
    assert skipped == "not applied, since the images have labels: views/val/top1, position/val/r2"
    assert rest[0].startswith("knn/val/top1 41.00 fails: 0.40 above the same ViT with random weights, 40.60")
    shown = capsys.readouterr().out
    assert "franca version 1 (no alias)" in shown and first in shown

    client = connect()
    version = client.get_model_version("franca", "1")
    assert version.tags["franca.worse_than"] == "random, pixels"
    assert "\n".join(receipt["decision"]) == version.tags["franca.decision"]
    assert all(f"- {sentence}" in str(version.description) for sentence in receipt["decision"])
    promote.run(params, apply=True)
    assert "nothing to promote; it has no champion either" in capsys.readouterr().out

    finish(seed=1, knn=70)
    register.run(params)
    assert read_json(RECEIPT)["aliases"] == ["champion"]
    finish(seed=2, knn=41)
    register.run(params)
    assert aliases() == {"champion": "2"}, "nothing became of the champion"


def test_a_challenger_not_better_by_new_results_loses_its_alias(finish: Finish, params: Params) -> None:
    finish(seed=0, knn=70)
    register.run(params)
    finish(seed=1, knn=69)
    register.run(params)
    client = connect()
    assert aliases() == {"champion": "1", "challenger": "2"}
    client.update_model_version("franca", "2", "what a person wrote")
    finish(seed=1, knn=41)
    register.run(params)
    assert aliases() == {"champion": "1"}
    finish(seed=1, knn=69.5)
    register.run(params)
    assert aliases() == {"champion": "1", "challenger": "2"}
    version = client.get_model_version("franca", "2")
    assert "franca.worse_than" not in version.tags and version.description == "what a person wrote"


def test_champion_and_challenger_are_paired_on_the_same_images(finish: Finish, params: Params) -> None:
    finish(seed=0, knn=70)
    register.run(params)
    finish(seed=1, knn=71.5)
    register.run(params)
    receipt = read_json(RECEIPT)
    (sentence,) = (line for line in receipt["decision"] if "the champion's" in line and line.startswith("knn"))
    assert "1.50 above the champion's 70.00" in sentence and "same images" in sentence
    run = connect().get_run(receipt["run_id"])
    kept = connect().download_artifacts(run.info.run_id, "results/evaluate/outcomes.npz")
    assert Path(kept).read_bytes() == Path("results/evaluate/outcomes.npz").read_bytes()


def test_a_champion_without_outcomes_can_be_beaten(finish: Finish, params: Params) -> None:
    """Without outcomes.npz the intervals are those of different images."""
    finish(seed=0, knn=70)
    Path("results/evaluate/outcomes.npz").unlink()
    register.run(params)
    finish(seed=1, knn=75)
    register.run(params)
    receipt = read_json(RECEIPT)
    assert receipt["aliases"] == ["champion"]
    assert any("5.00 above the champion's 70.00" in line and "unpaired" in line for line in receipt["decision"])


def test_outcomes_of_another_model_are_not_used(finish: Finish, params: Params) -> None:
    finish(seed=0, knn=70)
    outcomes = Path("results/evaluate/outcomes.npz").read_bytes()
    finish(seed=1, knn=70)
    Path("results/evaluate/outcomes.npz").write_bytes(outcomes)
    register.run(params)
    assert all("same images" not in line for line in read_json(RECEIPT)["decision"])


@pytest.mark.parametrize(("views", "given"), [(30.0, ["champion"]), (12.0, [])])
def test_without_labels_the_gates_on_views_decide(
    finish: Finish, params: Params, views: float, given: list[str]
) -> None:
    results = finish()
    keys = ("views", "top1"), ("position", "r2")
    values = {"franca": (views, 2.0), "random_init": (12.0, 60.0), "raw_pixels": (9.0, 1.0)}
    rows = [
        {**row(model, benchmark, "val", value), "metric": metric}
        for model, pair in values.items()
        for (benchmark, metric), value in zip(keys, pair, strict=True)
    ]
    skipped = dict.fromkeys(("knn", "linear"), "the train images have no labels")
    write_json(Path("results/evaluate/results.json"), results | {"rows": rows, "skipped": skipped})
    register.run(params)
    receipt = read_json(RECEIPT)
    assert receipt["aliases"] == given
    assert any("gates that need no labels decide" in line for line in receipt["decision"])
    assert not any(line.startswith("knn") for line in receipt["decision"])


def test_another_server_receives_the_run(
    finish: Finish, params: Params, empty_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish()
    register.run(params)
    Path("other").mkdir()
    shutil.copy(empty_database, "other/mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///other/mlflow.db")
    register.run(params)
    receipt = read_json(RECEIPT)
    assert versions() == [1]
    assert (receipt["version"], receipt["aliases"]) == ("1", ["champion"])
    assert len(connect().get_metric_history(receipt["run_id"], "train/loss")) == 5
    assert Path("other/mlartifacts").is_dir()


def test_lost_artifacts_are_uploaded_again_to_the_same_version(finish: Finish, params: Params) -> None:
    finish()
    register.run(params)
    shutil.rmtree("mlartifacts")
    register.run(params)
    assert versions() == [1]
    assert mlflow.pyfunc.load_model("models:/franca@champion").predict(np.full((1, 16, 16, 3), 9, np.uint8)).shape == (
        1,
        16,
    )


def test_mirror_and_register_share_one_run(finish: Finish, params: Params) -> None:
    finish()
    from franca.tracking.curves import open_uploader

    curves = open_uploader(connect(), next(Path("runs").glob("pretrain-*")).resolve(), "franca")
    curves.send()
    register.run(params)
    receipt = read_json(RECEIPT)
    assert receipt["run_id"] == curves.run_id
    assert len(connect().get_metric_history(curves.run_id, "train/loss")) == 5


def test_unreachable_server_is_a_one_line_error_and_loses_nothing(
    finish: Finish, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(FrancaError, match="connection refused"):
        register.run(params)
    assert not RECEIPT.exists()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    register.run(params)
    assert versions() == [1]


@pytest.mark.slow
def test_server_that_was_killed_and_emptied_is_filled_again(
    finish: Finish, params: Params, server: Server, empty_database: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finish()
    register.run(params)
    first = read_json(RECEIPT)
    link = f"{server.uri}/#/models/franca/versions/1?workflowType=machine_learning"
    assert first["links"]["version"] == link
    assert link in capsys.readouterr().out
    scores = {
        metric.key: metric.dataset_name for metric in connect().get_logged_model(first["model_id"]).metrics or []
    }
    assert scores["knn/val/top1"] == "small-val"

    server.kill()
    finish(seed=1, knn=80)
    with pytest.raises(FrancaError, match="connection refused"):
        register.run(params)
    assert read_json(RECEIPT) == first
    shutil.copy(empty_database, "mlflow.db")
    server.start()
    register.run(params)
    assert versions() == [1]
    assert read_json(RECEIPT)["aliases"] == ["champion"]
    embeddings = mlflow.pyfunc.load_model("models:/franca@champion").predict(np.full((1, 16, 16, 3), 9, np.uint8))
    np.testing.assert_array_equal(
        embeddings, Embedder(load_model(Path("models/franca"))).predict(np.full((1, 16, 16, 3), 9, np.uint8))
    )


def test_results_of_other_weights_are_an_error(finish: Finish, params: Params) -> None:
    finish(seed=0)
    results = Path("results/evaluate/results.json").read_bytes()
    finish(seed=1)
    Path("results/evaluate/results.json").write_bytes(results)
    with pytest.raises(
        FrancaError, match="was computed from other weights than models/franca; run `dvc repro evaluate`"
    ):
        register.run(params)


@pytest.mark.parametrize("missing", ["models/franca/model.safetensors", "results/evaluate/results.json"])
def test_missing_stage_is_named(finish: Finish, params: Params, missing: str) -> None:
    finish()
    Path(missing).unlink()
    with pytest.raises(FrancaError, match=f"{missing}: no such file; run `dvc repro"):
        register.run(params)


def test_unknown_metric_in_a_gate_names_the_known_ones(finish: Finish, params: Params) -> None:
    finish()
    with pytest.raises(FrancaError, match="no metric 'segmentation/val/miou'; known: knn/val/top1, linear/val/top1"):
        register.run(with_gates(params, BETTER | {"metric": "segmentation/val/miou"}))


def test_links_of_a_server() -> None:
    links = page_links("http://host:5000", "1", "abc", "franca", "3")
    assert links["run"] == "http://host:5000/#/experiments/1/runs/abc?workflowType=machine_learning"
    assert links["version"] == "http://host:5000/#/models/franca/versions/3?workflowType=machine_learning"
    assert page_links("sqlite:////x/mlflow.db", "1", "abc", "franca", "3") == {}


def test_further_data_sets_are_logged_and_decide(finish: Finish, params: Params, root: Path) -> None:
    """A model of unlabelled images is promoted by a data set elsewhere; the next one must beat it there."""
    values = params.model_dump(by_alias=True) | {
        "datasets": {"birds": {"path": "data/birds", "task": "classification"}}
    }
    gates = [
        {"metric": "birds/knn/val/top1", "against": a, "min_improvement": 0.5, "floor": None}
        for a in ("random", "champion")
    ]
    values["register"] |= {"gates": gates}
    params = parse_params(values, "params.yaml")

    def measured(score: float, seed: int) -> None:
        results = finish(seed=seed, suite=params)
        rows = [row("franca", "knn", "val", score), row("random_init", "knn", "val", 20.0)]
        write_json(Path("results/datasets/birds/results.json"), results | {"rows": rows, "data_digest": "b" * 64})

    finish(suite=params)
    with pytest.raises(FrancaError, match="run `dvc repro evaluate_dataset@birds` first"):
        register.run(params)
    measured(50.0, 0)
    register.run(params)
    receipt = read_json(RECEIPT)
    assert receipt["aliases"] == ["champion"]
    client = connect()
    run = client.get_run(receipt["run_id"])
    assert run.data.metrics["birds/knn/val/top1"] == 50.0
    table = Path(client.download_artifacts(run.info.run_id, "scores.csv")).read_text()
    assert 'birds,knn,val,top1,"50.0 [49.0, 51.0]","20.0 [19.0, 21.0]",-' in table
    assert "On the data set `birds`" in run.data.tags["mlflow.note.content"]
    scores = {metric.key: metric for metric in client.get_logged_model(receipt["model_id"]).metrics or []}
    found = scores["birds/knn/val/top1"]
    assert (found.value, found.dataset_name, found.dataset_digest) == (50.0, "birds-val", "b" * 36)

    measured(45.0, 1)
    register.run(params)
    assert "birds/knn/val/top1 failed" in read_json(RECEIPT)["decision"][0]
    measured(60.0, 2)
    register.run(params)
    assert aliases()["champion"] == "3"
