"""Data sets of evaluation: stores of labeled images, or of images with masks and nothing else."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from franca.data.ingest.prepare import prepare_dataset
from franca.data.store.prepared import SPLITS, Store
from franca.errors import FrancaError
from franca.params import Dataset, Prepare
from tests.data.test_dense import CLASSES, scenes

Build = Callable[..., Path]
Picture = Callable[..., bytes]
MakeParams = Callable[..., Prepare]


def dataset(path: Path, task: str) -> Dataset:
    return Dataset.model_validate({"path": str(path), "task": task})


def test_a_set_with_classes_becomes_a_store_of_its_own(
    tmp_path: Path, picture: Picture, make_tree: Build, make_params: MakeParams
) -> None:
    files = {
        f"{split}/{name}/{i}.png": picture((ord(name[0]), ord(split[1]), i))
        for split in SPLITS
        for name in ("land", "sea")
        for i in range(3)
    }
    source = make_tree(tmp_path / "set", files)
    manifest = prepare_dataset(
        dataset(source, "classification"), "datasets.x", make_params(source), tmp_path / "store"
    )
    store = Store(tmp_path / "store")
    assert (manifest["classes"], store.dense("val")) == (["land", "sea"], None)
    assert [len(store.images(split)) for split in SPLITS] == [6, 6, 6]


def test_a_set_with_masks_has_no_other_images(
    tmp_path: Path, picture: Picture, make_tree: Build, make_params: MakeParams
) -> None:
    source = make_tree(tmp_path / "set", scenes(picture, 8) | {"classes.json": CLASSES})
    manifest = prepare_dataset(dataset(source, "segmentation"), "datasets.x", make_params(source), tmp_path / "store")
    store = Store(tmp_path / "store")
    assert manifest["channels"] == manifest["dense"]["channels"] and store.channels.mean
    for split in SPLITS:
        images, dense = store.images(split), store.dense(split)
        assert (len(images), images.labels.tolist(), list(images)) == (0, [], [])
        assert dense is not None and dense.mask(0).shape == (20, 24) and dense[0].size == (24, 20)


def test_classification_without_classes_is_refused(
    tmp_path: Path, picture: Picture, make_tree: Build, make_params: MakeParams
) -> None:
    source = make_tree(tmp_path / "set", {f"{i}.png": picture(i) for i in range(30)})
    with pytest.raises(FrancaError, match=r"have no classes; put each class into a folder .* datasets\.x\.task"):
        prepare_dataset(dataset(source, "classification"), "datasets.x", make_params(source), tmp_path / "store")


def test_messages_name_the_parameter(tmp_path: Path, make_params: MakeParams) -> None:
    for task in ("classification", "segmentation"):
        with pytest.raises(FrancaError, match=r"datasets\.x\.path"):
            prepare_dataset(dataset(tmp_path / "none", task), "datasets.x", make_params(tmp_path), tmp_path / "store")


def test_mistakes_in_the_section_are_named(tiny_values: Callable[..., dict[str, object]]) -> None:
    from franca.params import parse_params

    wrong = {"a/b": {"path": "x", "task": "segmentation"}, "voc": {"path": "x", "tsk": "boxes"}}
    with pytest.raises(FrancaError) as error:
        parse_params(tiny_values({"datasets": wrong}), "params.yaml")
    lines = str(error.value)
    assert "did you mean task?" in lines and "a/b" in lines, json.dumps(lines)
