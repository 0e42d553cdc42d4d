"""`franca drift` on folders of images: exit codes, files, and faults in one line."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from franca.cli import main
from franca.models import random_model, save_model
from tests.conftest import MakeParams, MakeStore

REPOSITORY = Path(__file__).parents[2]


def mosaics(seed: int, count: int, gray: bool = False) -> list[Image.Image]:
    """Images of 4 x 4 fields in colors of their own."""
    random = np.random.default_rng(seed)
    fields = [Image.fromarray(random.integers(0, 256, (4, 4, 3), dtype=np.uint8)) for _ in range(count)]
    images = [image.resize((32, 32), Image.Resampling.NEAREST) for image in fields]
    return [image.convert("L").convert("RGB") for image in images] if gray else images


def save(folder: Path, images: list[Image.Image]) -> Path:
    folder.mkdir()
    for number, image in enumerate(images):
        image.save(folder / f"{number:03}.png")
    return folder


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_store: MakeStore, tiny_params: MakeParams) -> Path:
    """A project with a model and 60 training images; the current folder."""
    monkeypatch.chdir(tmp_path)
    make_store(Path("prepared"), train=60, val=0, images=mosaics(0, 60))
    save_model(random_model(tiny_params().base), Path("models/franca"))
    return tmp_path


def drift(*arguments: object) -> int:
    return main(["drift", *map(str, arguments)])


def test_other_images_of_the_same_kind(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new = save(project / "new", mosaics(1, 40))
    (new / "broken.png").write_bytes(b"no image")
    assert drift(new, "-o", "out") == 0
    out = capsys.readouterr().out
    assert out.startswith("No drift: ") and out.count("  ok     ") == 3 and "1 images could not be read" in out
    result = json.loads(Path("out/drift.json").read_text())
    assert (result["drift"], result["new_images"], result["training_images"]) == (False, 40, 60)
    assert result["refused"][0][0] == "broken.png"
    page = Path("out/drift.html").read_text()
    assert "No drift: the new images look like the training images" in page and "broken.png" in page
    assert page.count('alt="new image"') == 12 + 6 and page.count('alt="training image"') == 5 * (12 + 6)
    assert "<script" not in page and "http" not in page.replace("http-equiv", "")


def test_gray_images_are_drift(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new = save(project / "<b>gray", mosaics(1, 40, gray=True))
    assert drift(new, "--json", "-o", "out") == 4
    captured = capsys.readouterr()
    assert json.loads(captured.out)["drift"] is True
    assert captured.err.startswith("franca: ") and "differ from the training images (" in captured.err
    assert "<b>" not in Path("out/drift.html").read_text()


def test_a_part_of_many_images_is_compared(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new = project / "new"
    new.mkdir()
    with tarfile.open(new / "many.tar", "w") as tar:
        for number, image in enumerate(mosaics(2, 50)):
            buffer = io.BytesIO()
            image.save(buffer, "PNG")
            member = tarfile.TarInfo(f"{number:03}.png")
            member.size = buffer.getbuffer().nbytes
            tar.addfile(member, io.BytesIO(buffer.getvalue()))
    assert drift(new, "--images", 30, "--json", "-o", "out") == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["new_images"], result["folder_images"], result["training_images"]) == (30, 50, 30)
    assert "many.tar/000.png" in Path("out/drift.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["few"], "few: 3 images are too few to compare; give 20 or more"),
        (["missing"], "missing: no such folder"),
        (["few", "--alpha", "0"], "--alpha 0: must be at least 0.003 and below 1"),
        (["few", "--images", "7"], "--images 7: must be from 20 to 5,000"),
        (["broken"], "broken: none of 1 images can be read; for example x.png: "),
    ],
)
def test_faults(arguments: list[str], fault: str, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(project / "few", mosaics(3, 3))
    (project / "broken").mkdir()
    (project / "broken/x.png").write_bytes(b"x")
    assert drift(*arguments) == 2
    assert fault in capsys.readouterr().err


def eurosat(part: str) -> dict[str, list[bytes]]:
    """The first 40 images of each class."""
    found: dict[str, list[bytes]] = {}
    for path in sorted((REPOSITORY / "data/eurosat" / part).glob("*.tar")):
        with tarfile.open(path) as tar:
            files = [member for member in tar.getmembers() if member.isfile()]
            found[path.stem] = [tar.extractfile(member).read() for member in files[:40]]  # type: ignore[union-attr]
    return found


@pytest.mark.slow
def test_on_satellite_images(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make_store: MakeStore,
    tiny_params: MakeParams,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A held-out split is none; its gray copies, and the split without most classes, are drift."""
    monkeypatch.chdir(tmp_path)

    def opened(content: bytes) -> Image.Image:
        return Image.open(io.BytesIO(content)).convert("RGB")

    training = [opened(content) for images in eurosat("train").values() for content in images]
    make_store(Path("prepared"), train=len(training), val=0, images=training)
    base = tiny_params({"base.backbone.embed_dim": 64, "base.backbone.depth": 4}).base
    save_model(random_model(base), Path("models/franca"))
    held_out = {kind: list(map(opened, contents)) for kind, contents in eurosat("test").items()}
    everything = [image for images in held_out.values() for image in images]
    found: dict[str, Any] = {}
    for name, new in {
        "all": everything,
        "gray": [image.convert("L").convert("RGB") for image in everything],
        "missing": [image for kind in list(held_out)[:3] for image in held_out[kind]],
    }.items():
        code = drift(save(tmp_path / name, new), "--json")
        found[name] = json.loads(capsys.readouterr().out)
        assert code == (4 if found[name]["drift"] else 0)
    assert [found[name]["drift"] for name in ("all", "gray", "missing")] == [False, True, True], found
