import re
import shlex
from pathlib import Path

import pytest
import torch

from franca.cli import main
from franca.errors import FrancaError
from franca.formats.export import export
from franca.formats.official import build_model, from_official, planes_of, state_of
from franca.models import load_model
from franca.models.model import FrancaModel
from tests.formats.writing.conftest import KINDS, MakeModel, make_image, perturbed, run_card


def assert_equal(got: FrancaModel, wanted: FrancaModel) -> None:
    state = wanted.state_dict()
    assert got.state_dict().keys() == state.keys()
    for key, value in got.state_dict().items():
        assert torch.equal(value, state[key]), key


@pytest.mark.parametrize(("ffn", "registers"), KINDS)
def test_there_and_back(
    make_model: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ffn: str, registers: int
) -> None:
    model = make_model(ffn, registers)
    monkeypatch.chdir(tmp_path)
    export(model, "official", Path("released"))
    names = run_card(tmp_path / "released", make_image())
    assert all(key.startswith("backbone.") for key in names["backbone"])
    found = from_official(state_of({"teacher": names["backbone"]}, "model.pth"), "model.pth")
    again = build_model(found.backbone, "model.pth", model.architecture.num_heads, model.mean, model.std)  # type: ignore[union-attr]
    again.remove_position(planes_of(names["rasa"], "rasa.pth"))
    assert_equal(again, model)


def test_the_card_tells_how_to_import_it(
    make_model: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model()
    monkeypatch.chdir(tmp_path)
    export(model, "official", Path("released"))
    line = re.search(r"^# franca (import-weights .*)$", Path("released/README.md").read_text(), re.MULTILINE)
    assert line is not None and main(shlex.split(line[1])) == 0
    again = load_model(Path("NEW"))
    assert_equal(again, model)
    assert (again.mean, again.std) == (model.mean, model.std)


def test_without_planes(make_model: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    export(make_model(), "official", Path("released"), keep_position=True)
    assert {path.name for path in Path("released").iterdir()} == {"model.pth", "README.md"}
    assert "rasa" not in run_card(Path("released"), make_image())


@pytest.mark.parametrize(
    ("registers", "position_resampling", "told"),
    [(0, "offset", ""), (4, "antialias", ""), (0, "antialias", ": antialiased"), (4, "offset", ": not antialiased")],
)
def test_resampling_of_positions_is_told(
    make_model: MakeModel,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    registers: int,
    position_resampling: str,
    told: str,
) -> None:
    export(make_model("mlp", registers, position_resampling), "official", tmp_path / "released")
    line = f"not in this format: the kind of resampling of positions{told}"
    found = [printed for printed in capsys.readouterr().out.splitlines() if printed.startswith(line)]
    assert len(found) == 1 and (told or found == [line])


def test_what_the_official_code_has_not(make_model: MakeModel, tmp_path: Path) -> None:
    with pytest.raises(FrancaError, match=r"official: holds all 32 dimensions, not 8; export with --dim 32 and slice"):
        export(make_model(), "official", tmp_path / "released", dim=8)
    with pytest.raises(FrancaError, match=r"official: holds Franca's own architecture, not test_vit; --format timm"):
        export(perturbed("test_vit"), "official", tmp_path / "released")
    assert not list(tmp_path.iterdir())
