"""`franca inspect`: what it counts in a prepared store, and the page that it writes."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from franca.cli import main
from franca.files import write_json
from franca.inspection import facts
from tests.conftest import MakeStore, MakeValues


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_store: MakeStore, tiny_values: MakeValues) -> Path:
    """30 images of 3 classes: one black, one white, two small."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    images = [Image.fromarray(random.integers(0, 256, (40, 48, 3), dtype=np.uint8)) for _ in range(30)]
    images[0], images[1] = Image.new("RGB", (48, 40)), Image.new("RGB", (48, 40), "white")
    images[2] = images[5] = images[2].resize((16, 20))
    make_store(Path("prepared"), train=24, val=6, images=images)
    Path("params.yaml").write_text(json.dumps(tiny_values()))
    manifest = json.loads(Path("prepared/manifest.json").read_text())
    write_json(Path("prepared/manifest.json"), manifest | {"source": {"path": "data/<b>photos"}})
    write_json(Path("prepared/refused.json"), [{"path": "<i>bad.jpg", "reason": "truncated"}])
    dropped = [{"path": "b.jpg", "same_as": "a.jpg"}]
    write_json(Path("prepared/duplicates.json"), {"groups": [["a.jpg", "b.jpg"]], "dropped": dropped})
    return tmp_path


def test_the_page_and_what_is_said(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "-o", "images.html"]) == 0
    out = capsys.readouterr().out
    assert "Refused: 1 image could not be read or used." in out
    assert "Duplicates: 1 group of images that look the same; 1 image dropped, so that" in out
    assert "Classes: 3 classes, from 10 images (red) to 10 (blue)." in out
    assert "Size: 2 training images smaller than the 32 pixels" in out
    assert "Brightness: Of 24 images: 1 nearly black, 1 nearly white, 2 without contrast." in out
    page = Path("images.html").read_text()
    assert "30 images of data/&lt;b&gt;photos" in page and "&lt;i&gt;bad.jpg" in page and "a.jpg, b.jpg" in page
    assert "48 x 40" in page and page.count("<img ") == 3 * 5 + 3 * 5
    assert "<script" not in page and "<b>photos" not in page


def test_images_without_labels(project: Path, make_store: MakeStore, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = json.loads(Path("prepared/manifest.json").read_text())
    make_store(Path("prepared"), train=24, val=6, labelled=False)
    write_json(Path("prepared/manifest.json"), manifest | {"classes": []})
    assert main(["inspect", "-o", "images.html"]) == 0
    assert "Classes: No labels" in capsys.readouterr().out


@pytest.mark.parametrize(("name", "fault"), [("page.txt", "page.txt: not the name of an HTML file")])
def test_other_names(name: str, fault: str, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "-o", name]) == 2
    assert fault in capsys.readouterr().err


def test_without_a_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_values: MakeValues, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(json.dumps(tiny_values()))
    assert main(["inspect", "-o", "page.html"]) == 2
    assert "run `dvc repro prepare` first" in capsys.readouterr().err


def test_histograms() -> None:
    found = np.array([(40, 30), (64, 64), (64, 64), (5000, 3000)])
    rows = [(row.name, row.count) for row in facts.side_counts(found)]
    assert rows[0] == ("below 32", 1) and ("64 to 127", 2) in rows and rows[-1] == ("2048 and more", 1)
    assert [row.name for row in facts.size_counts(found)] == ["64 x 64", "40 x 30", "5000 x 3000"]
    assert [row.width for row in facts.size_counts(found)] == [100, 50, 50]
    many = np.array([(side, side) for side in range(1, 21)])
    assert facts.size_counts(many)[-1].name == "12 others" and facts.size_counts(many)[-1].count == 12
