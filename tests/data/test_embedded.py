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


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The whole stage on the embedded data, whether or not `data/` has been pulled."""
    folder = tmp_path_factory.mktemp("embedded")
    for file in listing():
        path = folder / "data" / file["relpath"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(stored(file["md5"]))
    params = load_params(ROOT / "params.yaml").prepare
    sources = {"source": str(folder / "data/eurosat"), "dense_source": str(folder / "data/aerial")}
    prepare(params.model_copy(update=sources), folder / "prepared")
    return Store(folder / "prepared")


def test_eurosat(store: Store) -> None:
    manifest = store.manifest
    assert len(manifest["classes"]) == 10
    assert manifest["counts"]["test"] == {"images": 4000, "classes": dict.fromkeys(manifest["classes"], 400)}
    assert manifest["counts"]["val"]["images"] == pytest.approx(1200, abs=100)
    assert sum(manifest["counts"][split]["images"] for split in SPLITS) == 15_999
    assert manifest["refused"] == 0
    assert json.loads((store.folder / "duplicates.json").read_text())["dropped"] == [
        {"path": "train/River.tar/River_1680.jpg", "same_as": "test/River.tar/River_111.jpg"}
    ]
    assert store.images("val")[0].size == (64, 64)


def test_aerial(store: Store) -> None:
    dense = store.manifest["dense"]
    assert dense["classes"] == ["building", "land", "road", "vegetation", "water"]
    assert {split: dense["counts"][split]["images"] for split in SPLITS} == {"train": 45, "val": 9, "test": 18}
    assert dense["duplicates"]["groups"] == 0
