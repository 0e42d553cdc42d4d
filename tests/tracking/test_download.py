"""Models from the tracking server, and one-line errors for what is missing."""

import json
import shutil
from pathlib import Path

import mlflow
import pytest

import franca
from franca.cli import main
from franca.errors import FrancaError
from franca.files import read_json
from franca.params import Params, parse_params
from franca.stages import register
from franca.tracking.client import connect, experiment_id
from tests.tracking.conftest import Finish

RECEIPT = Path("results/register/receipt.json")


def test_a_model_by_alias_by_version_and_by_run(finish: Finish, params: Params, tmp_path: Path) -> None:
    digest = finish()["model_digest"]
    register.run(params)
    receipt = read_json(RECEIPT)
    addresses = ["models:/franca@champion", "models:/franca/1", f"models:/{receipt['model_id']}"]
    for address in [*addresses, f"runs:/{receipt['run_id']}", receipt["run_id"]]:
        assert franca.load(address).digest == digest, address
    assert list(Path("models").iterdir()) == [Path("models/franca")]


def test_a_run_whose_weights_another_run_has_logged(finish: Finish, params: Params) -> None:
    digest = finish()["model_digest"]
    register.run(params)
    first = read_json(RECEIPT)
    values = params.model_dump(by_alias=True)
    elsewhere = {"register": values["register"] | {"experiment": "elsewhere"}}
    moved = parse_params(values | elsewhere, "params.yaml")
    finish(suite=moved)
    register.run(moved)
    second = read_json(RECEIPT)
    assert (second["version"], second["model_id"]) == (first["version"], first["model_id"])
    assert second["run_id"] != first["run_id"]
    assert franca.load(second["run_id"]).digest == digest


def test_missing_model_is_a_one_line_error(finish: Finish, params: Params) -> None:
    finish()
    register.run(params)
    client = connect()
    bare = client.create_run(experiment_id(client, "franca")).info.run_id
    for address, line in (
        ("models:/franca@nobody", "models:/franca@nobody: Registered model alias nobody not found (tracking server "),
        ("models:/franca/7", r"models:/franca/7: Model Version (name=franca, version=7) not found (tracking server "),
        ("models:/other@champion", "models:/other@champion: Registered Model with name=other not found (tracking "),
        ("0" * 32, f"runs:/{'0' * 32}: Run with id={'0' * 32} not found (tracking server "),
        (bare, f"runs:/{bare}: this run has no model yet; run `franca register` to log it"),
        ("models:/", "models:/: not a model address; use models:/NAME@ALIAS, models:/NAME/VERSION or runs:/ID"),
    ):
        with pytest.raises(FrancaError) as caught:
            franca.load(address)
        assert str(caught.value).startswith(line) and "\n" not in str(caught.value)


def test_missing_files_and_models_of_another_kind(finish: Finish, params: Params, root: Path) -> None:
    finish()
    register.run(params)
    (about,) = root.glob("mlartifacts/**/MLmodel")
    about.write_text(about.read_text().replace("franca.tracking.flavor", "somebody.elses"))
    with pytest.raises(FrancaError, match="models:/franca@champion: not a Franca model; "):
        franca.load("models:/franca@champion")
    shutil.rmtree(about.parent)
    with pytest.raises(
        FrancaError, match="models:/franca@champion: its files are missing on the tracking server; run "
    ):
        franca.load("models:/franca@champion")


def test_changed_files_are_refused(finish: Finish, params: Params, root: Path) -> None:
    """The digests are in the registry's database, not with the files."""
    finish()
    register.run(params)
    (about,) = root.glob("mlartifacts/**/MLmodel")
    for name in ("model.safetensors", "config.json"):
        (path,) = about.parent.glob(f"data/**/{name}")
        content = path.read_bytes()
        path.write_bytes(content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])
        for address in ("models:/franca@champion", "models:/franca/1", read_json(RECEIPT)["run_id"]):
            with pytest.raises(FrancaError, match=rf": {name} is not the file that was registered \(SHA-256 "):
                franca.load(address)
        if name == "model.safetensors":
            with pytest.raises(FrancaError, match="is not the file that was registered"):
                mlflow.pyfunc.load_model("models:/franca@champion")
        path.write_bytes(content)
    assert franca.load("models:/franca@champion").digest


def test_code_that_mlmodel_names_does_not_run(finish: Finish, params: Params, root: Path) -> None:
    finish()
    register.run(params)
    (about,) = root.glob("mlartifacts/**/MLmodel")
    (about.parent / "code/franca").mkdir(parents=True)
    (about.parent / "code/franca/__init__.py").write_text("open('ran', 'w')")
    (about.parent / "code/evil.py").write_text("open('ran', 'w')")
    flavor = "    loader_module: franca.tracking.flavor\n"
    text = about.read_text()
    about.write_text(text.replace(flavor, f"    code: code\n{flavor}"))
    assert franca.load("models:/franca@champion").digest
    about.write_text(text.replace("franca.tracking.flavor", "evil"))
    with pytest.raises(FrancaError, match="not a Franca model"):
        franca.load("models:/franca@champion")
    about.write_text(text.replace("data: data", "data: ../../../../../models"))
    with pytest.raises(FrancaError, match="MLmodel names a folder outside of the model"):
        franca.load("models:/franca@champion")
    assert not Path("ran").exists()


def test_loading_a_model_creates_no_database(root: Path) -> None:
    (root / "mlflow.db").unlink()
    with pytest.raises(FrancaError, match=r"franca@champion: no tracking database at .*mlflow.db; set MLFLOW_TRACK"):
        franca.load("models:/franca@champion")
    assert not (root / "mlflow.db").exists()


def test_unreachable_server_is_a_one_line_error(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(FrancaError, match=r"^tracking server http://127.0.0.1:9: connection refused; start it or"):
        franca.load("models:/franca@champion")


def test_results_of_versions_are_compared(
    finish: Finish, params: Params, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finish(seed=0, knn=70.0)
    register.run(params)
    run_id = read_json(RECEIPT)["run_id"]
    finish(seed=1, knn=75.0)
    register.run(params)
    capsys.readouterr()
    for other in ("models:/franca/1", f"runs:/{run_id}"):
        assert main(["compare", other, "results/evaluate", "--json"]) == 0
        found = json.loads(capsys.readouterr().out)["differences"]
        knn = next(gap for gap in found if (gap["benchmark"], gap["split"]) == ("knn", "val"))
        assert (knn["value"], knn["paired"], knn["against"]) == (5.0, True, other)
    assert main(["compare", "models:/franca/1", "models:/franca@champion"]) == 0
    assert "+5.0 [" in capsys.readouterr().out
    for address, reason in (
        ("models:/franca/7", "not found (tracking server "),
        ("models:/franca@nobody", "alias nobody not found"),
        ("models:/franca", "not a version; use "),
    ):
        assert main(["compare", address, "results/evaluate"]) == 2
        told = capsys.readouterr().err
        assert told.startswith(f"franca: {address}: ") and reason in told and told.count("\n") == 1
