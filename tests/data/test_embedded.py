"""The data that the repository carries: complete, pulled from nowhere else, and prepared as the demo does it."""

import configparser
import hashlib
import json
from pathlib import Path

import pytest

from franca.data.ingest.prepare import prepare
from franca.data.store.prepared import SPLITS, Store
from franca.params import load_params, read_yaml

ROOT = Path(__file__).parents[2]


def stored(digest: str) -> Path:
    return ROOT / ".dvc/embedded/files/md5" / digest[:2] / digest[2:]


def listing() -> list[dict[str, str]]:
    (out,) = read_yaml(ROOT / "data.dvc")["outs"]
    return json.loads(stored(out["md5"]).read_bytes())


def test_no_push_lands_in_the_repository_by_accident() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / ".dvc/config")
    assert config["'remote \"embedded\"'"]["url"] == "embedded"
    assert "remote" not in config["core"]
    (out,) = read_yaml(ROOT / "data.dvc")["outs"]
    assert out["remote"] == "embedded"


def test_every_object_is_there_and_whole() -> None:
    (out,) = read_yaml(ROOT / "data.dvc")["outs"]
    files = listing()
    assert len(files) == out["nfiles"]
    for file in files:
        assert hashlib.md5(stored(file["md5"]).read_bytes(), usedforsecurity=False).hexdigest() == file["md5"]


DROPPED = [{"path": "train/River.tar/River_1680.jpg", "same_as": "test/River.tar/River_111.jpg"}]
PART = ("aerial/", "eurosat/test/River", "eurosat/test/Forest", "eurosat/train/River", "eurosat/train/Forest")


def prepared(folder: Path, names: tuple[str, ...]) -> Store:
    """Run the stage on the files whose names start so, whether or not `data/` has been pulled."""
    for file in listing():
        if file["relpath"].startswith(names):
            path = folder / "data" / file["relpath"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.symlink_to(stored(file["md5"]))
    params = load_params(ROOT / "params.yaml").prepare
    sources = {"source": str(folder / "data/eurosat"), "dense_source": str(folder / "data/aerial")}
    prepare(params.model_copy(update=sources), folder / "prepared")
    return Store(folder / "prepared")


@pytest.mark.parametrize(
    ("names", "classes", "images"), [(PART, 2, 3_199), pytest.param(("",), 10, 15_999, marks=pytest.mark.slow)]
)
def test_it_is_prepared(tmp_path: Path, names: tuple[str, ...], classes: int, images: int) -> None:
    store = prepared(tmp_path, names)
    manifest = store.manifest
    assert len(manifest["classes"]) == classes
    counts = manifest["counts"]
    assert counts["test"] == {"images": 400 * classes, "classes": dict.fromkeys(manifest["classes"], 400)}
    assert counts["val"]["images"] == pytest.approx(120 * classes, rel=0.2)
    assert sum(counts[split]["images"] for split in SPLITS) == images
    assert manifest["refused"] == 0
    assert json.loads((store.folder / "duplicates.json").read_text())["dropped"] == DROPPED
    assert store.images("val")[0].size == (64, 64)

    dense = manifest["dense"]
    assert dense["classes"] == ["building", "land", "road", "vegetation", "water"]
    assert {split: dense["counts"][split]["images"] for split in SPLITS} == {"train": 45, "val": 9, "test": 18}
    assert dense["duplicates"]["groups"] == 0
