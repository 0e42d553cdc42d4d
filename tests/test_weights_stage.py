"""What DVC sees of the weights that params.yaml names."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from franca.cli import main
from franca.files import read_json, sha256_file
from franca.models import random_model, save_model
from franca.params import read_yaml
from tests.conftest import MakeParams, MakeValues, set_value

ROOT = Path(__file__).parents[2]
INIT, COMPARATORS = Path("results/weights/init.json"), Path("results/weights/comparators.json")


def write_params(values: dict[str, Any], **changes: Any) -> None:
    for path, value in changes.items():
        set_value(values, path.replace("__", "."), value)
    Path("params.yaml").write_text(json.dumps(values))


def fake_model(folder: Path, content: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_text(content)
    return folder


def test_digests_follow_the_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_values: MakeValues, tiny_params: MakeParams
) -> None:
    monkeypatch.chdir(tmp_path)
    write_params(tiny_values())
    assert main(["weights"]) == 0
    assert read_json(INIT) == read_json(COMPARATORS) == {}
    for name, seed in (("a", 1), ("b", 2)):
        save_model(random_model(tiny_params({"base.seed": seed}).base), Path("models", name))
    write_params(tiny_values(), pretrain__init="models/a", evaluate__comparators=["models/b"])
    assert main(["weights"]) == 0
    first, other = INIT.read_bytes(), COMPARATORS.read_bytes()
    assert read_json(INIT)["init"]["model.safetensors"] == sha256_file(Path("models/a/model.safetensors"))
    assert main(["weights"]) == 0 and INIT.read_bytes() == first
    save_model(random_model(tiny_params({"base.seed": 3}).base), Path("models/a"))
    assert main(["weights"]) == 0
    assert INIT.read_bytes() != first and COMPARATORS.read_bytes() == other
    assert not Path("runs").exists(), "a stage that always runs is not noted"


@pytest.mark.parametrize("name", ["models/none", "params.yaml", "."])
def test_a_folder_without_a_model(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tiny_values: MakeValues,
    capsys: pytest.CaptureFixture[str],
    name: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_params(tiny_values(), pretrain__init=name)
    assert main(["weights"]) == 2
    line = capsys.readouterr().err
    assert line.startswith(f"franca: pretrain.init: {name}: not a model folder, config.json is missing; ")
    assert line.count("\n") == 1 and not INIT.exists()


STAND_IN = """
import sys
from pathlib import Path
for name in sys.argv[1:]:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text("done")
"""


def output_paths(stage: dict[str, Any]) -> list[str]:
    """Outputs and metrics of a stage."""
    return [next(iter(out)) if isinstance(out, dict) else out for out in stage["outs"] + stage.get("metrics", [])]


@pytest.fixture
def pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_values: MakeValues) -> Path:
    """The stages weights, pretrain and evaluate of the real dvc.yaml; the last two do no work."""
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    whole = read_yaml(ROOT / "dvc.yaml")["stages"]
    stages = {name: whole[name] for name in ("weights", "pretrain", "evaluate")}
    for name, stage in stages.items():
        stage["deps"] = [dep for dep in stage["deps"] if dep.startswith("results/weights")]
        if name != "weights":
            stage["cmd"] = f"python stand_in.py {' '.join(output_paths(stage))}"
    Path("stand_in.py").write_text(STAND_IN)
    with Path("dvc.yaml").open("w") as file:
        YAML().dump({"stages": stages}, file)
    write_params(tiny_values(), evaluate__comparators=[])
    for command in (
        ["git", "init", "-q"],
        [sys.executable, "-m", "dvc", "init", "-q"],
        ["git", "add", "-A"],
        ["git", "-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "-qm", "start"],
    ):
        subprocess.run(command, check=True)
    return folder


def dvc(*arguments: str) -> str:
    done = subprocess.run([sys.executable, "-m", "dvc", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def reproduced() -> set[str]:
    """The stages that `dvc repro` has run, the one aside that always does."""
    return {line.split("'")[1] for line in dvc("repro").splitlines() if line.startswith("Running stage")} - {"weights"}


@pytest.mark.slow
def test_dvc_sees_weights_that_are_imported_again(pipeline: Path, tiny_values: MakeValues) -> None:
    assert reproduced() == {"pretrain", "evaluate"}
    first, second = (fake_model(pipeline.parent / "models" / name, name) for name in ("first", "second"))
    write_params(tiny_values(), pretrain__init=str(first), evaluate__comparators=[str(second)])
    assert reproduced() == {"pretrain", "evaluate"}
    assert reproduced() == set()
    assert set(json.loads(dvc("status", "--json"))) == {"weights"}

    fake_model(first, "imported again")
    assert reproduced() == {"pretrain"}
    fake_model(second, "imported again")
    assert reproduced() == {"evaluate"}

    fake_model(first, "a third time")
    assert main(["weights"]) == 0
    assert str(INIT) in dvc("status", "pretrain"), "the command alone updates what DVC sees"
    assert "> python stand_in.py" in dvc("repro", "--dry", "pretrain")
    fake_model(first, "imported again")
    assert reproduced() == set(), "DVC takes what it has of these weights"

    before = Path("params.yaml").read_bytes(), INIT.read_bytes()
    said = dvc("exp", "run", "--temp", "-S", f"pretrain.init={second}")
    assert "Running stage 'weights'" in said and "Running stage 'pretrain'" in said
    assert (Path("params.yaml").read_bytes(), INIT.read_bytes()) == before, "the workspace is as it was"
