"""`franca export` in any format: atomic writes, the model card, and user errors."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard

from franca.cli import main
from franca.errors import FrancaError
from franca.formats import FORMATS
from franca.formats import export as module
from franca.formats.export import export
from franca.formats.variant import variant
from franca.models import load_model, save_model
from tests.forked import start
from tests.formats.conftest import MakeModel, make_image, perturbed, pixels_of

UMASK = os.umask(0o022)
os.umask(UMASK)


@pytest.fixture
def folder(make_model: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model `model` and no params.yaml; the current folder."""
    monkeypatch.chdir(tmp_path)
    save_model(make_model(registers=4), tmp_path / "model")
    return tmp_path


def test_the_command(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    choices = ["--dim", "8", "--image-size", "48", "--keep-position"]
    assert main(["export", "model", "--format", "safetensors", "-o", "out/short", *choices]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "out/short: written, format safetensors",
        "not in this format: positions of the native 32 px: replaced by those of 48 px",
        "not in this format: RASA: left out (--keep-position)",
    ]
    model = load_model(folder / "out/short")
    assert (model.embed_dim, model.image_size, len(model.position_planes)) == (8, 48, 0)
    assert [path.name for path in (folder / "out").iterdir()] == ["short"]


def test_usage_mistakes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["model"], ["model", "--format", "tensorflow", "-o", "out"], ["model", "--format", "timm"]):
        with pytest.raises(SystemExit) as caught:
            main(["export", *arguments])
        assert caught.value.code == 2
    assert "invalid choice: 'tensorflow'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--dim", "0"], "--dim 0: the model has dimensions 1 to 32"),
        (["--dim", "33"], "--dim 33: the model has dimensions 1 to 32"),
        (["--image-size", "30"], "--image-size 30: must be a multiple of the patch size 8"),
        (["--image-size", "0"], "--image-size 0: must be a multiple of the patch size 8"),
        (["-o", "model"], "model: exists already; give a new folder, or remove it first"),
        (["-o", "model/config.json"], "model/config.json: exists already; give a new folder, or remove it first"),
    ],
)
def test_mistakes_in_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], line: str
) -> None:
    before = sorted(folder.rglob("*"))
    assert main(["export", "model", "--format", "timm", "-o", "out", *arguments]) == 2
    assert capsys.readouterr() == ("", f"franca: {line}\n")
    assert sorted(folder.rglob("*")) == before


def test_a_missing_model(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "nowhere", "--format", "timm", "-o", "out"]) == 2
    assert capsys.readouterr().err.startswith("franca: nowhere: no such model; ")
    assert not (folder / "out").exists()


def test_an_empty_folder_is_filled(folder: Path) -> None:
    (folder / "out").mkdir()
    assert main(["export", "model", "--format", "timm", "-o", "out"]) == 0
    assert (folder / "out/README.md").exists()


def killed_export() -> None:
    module.write_card = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    module.export(load_model(Path("model")), "timm", Path("out"))


def test_a_killed_export_leaves_no_folder(folder: Path) -> None:
    process = start(killed_export)
    process.join()
    assert process.exitcode == -signal.SIGKILL and not (folder / "out").exists()
    assert main(["export", "model", "--format", "timm", "-o", "out"]) == 0


def test_exports_are_reproducible_and_readable_by_all(folder: Path) -> None:
    for format in FORMATS.keys() - {"onnx"}:
        for name in ("first", "second"):
            (folder / name).mkdir(exist_ok=True)
            assert main(["export", "model", "--format", format, "-o", f"{name}/{format}", "--dim", "32"]) == 0
            assert {path.stat().st_mode & 0o777 for path in (folder / name / format).iterdir()} == {0o666 & ~UMASK}
        first = {path.name: path.read_bytes() for path in (folder / "first" / format).iterdir()}
        assert first == {path.name: path.read_bytes() for path in (folder / "second" / format).iterdir()}


def test_the_card(make_model: MakeModel, tmp_path: Path) -> None:
    model = make_model(registers=4)
    export(model, "timm", tmp_path / "fine-model", dim=8)
    card = ModelCard.load(tmp_path / "fine-model/README.md")
    assert (card.data.library_name, card.data.pipeline_tag) == ("timm", "image-feature-extraction")
    assert "franca" in card.data.tags and card.data.license == "unknown"
    for fact in (
        "# fine-model\n",
        "| Architecture | ViT, width 32, depth 2, 2 heads, SwiGLU, 4 registers |",
        "| Dimensions | 8 of 32 |",
        "| Matryoshka levels | 2, 4, 8 |",
        "| Position in patches | removed by RASA, 2 planes |",
        "| Mean, of RGB in 0..1 | 0.5, 0.4, 0.3 |",
        f"| SHA-256 of the weights | `{model.digest}` |",
        'timm.create_model("local-dir:fine-model", pretrained=True)',
        "- the mask token\n",
    ):
        assert fact in card.content, fact
    assert str(tmp_path) not in card.content


@pytest.mark.parametrize("name", ["test_vit", "test_vit2"])
def test_a_variant_has_the_features_of_the_model(name: str, make_model: MakeModel) -> None:
    for model, size in ((perturbed(name), 64), (make_model(registers=4), 48)):
        wanted, got = model(pixels_of(make_image(size))), variant(model, image_size=size)(pixels_of(make_image(size)))
        for one, other in zip(got, wanted, strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_a_truncated_model_has_all_its_weights(make_model: MakeModel) -> None:
    model = make_model()
    short = variant(model, dim=8)
    again: Any = variant(short, dim=32)
    assert torch.equal(again(pixels_of(make_image())).patches, model(pixels_of(make_image())).patches)
    with pytest.raises(FrancaError, match="--dim 33"):
        variant(short, dim=33)
