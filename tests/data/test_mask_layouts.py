"""Public sets with masks: PASCAL VOC and ADE20K as they come out of their archives."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from franca.data.ingest.prepare import prepare_dataset
from franca.data.ingest.sources.open_source import open_dense_source
from franca.data.store.prepared import SPLITS, Store
from franca.errors import FrancaError
from franca.params import Dataset, Prepare

Build = Callable[..., Path]
Picture = Callable[..., bytes]
MakeParams = Callable[..., Prepare]
Files = dict[str, bytes]
NAMES = (
    "Idx\tRatio\tTrain\tVal\tStuff\tName\n" + "".join(f"{i}\t0\t0\t0\t1\tthing {i}\n" for i in range(1, 151))
).encode()


def png(values: object, mode: str = "L", size: tuple[int, int] = (24, 20)) -> bytes:
    """A mask of which the upper rows have the given values and all others the last of them."""
    rows = np.full(size[::-1], np.asarray(values)[-1], dtype=np.uint8)
    rows[: len(np.asarray(values))] = np.asarray(values, dtype=np.uint8)[:, None]
    image = Image.fromarray(rows)
    if mode == "P":
        image.putpalette(list(range(256)) * 3)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def voc(picture: Picture) -> Files:
    names = [f"2007_{i:06d}" for i in range(12)]
    files = {f"JPEGImages/{name}.jpg": picture(i, format="JPEG") for i, name in enumerate(names)}
    files |= {f"SegmentationClass/{name}.png": png([0, 20, 255, 1], "P") for name in names[:11]}
    files |= {"Annotations/2007_000000.xml": b"<a/>", "ImageSets/Main/cat_train.txt": b"2007_000011 1\n"}
    return files | {
        "ImageSets/Segmentation/train.txt": "\n".join(names[:8]).encode(),
        "ImageSets/Segmentation/val.txt": "\r\n".join(names[8:11]).encode(),
        "ImageSets/Segmentation/trainval.txt": "\n".join(names[:11]).encode(),
    }


def ade20k(picture: Picture) -> Files:
    files = {"objectInfo150.txt": NAMES, "sceneCategories.txt": b"x"}
    for part, short, count in (("training", "train", 8), ("validation", "val", 3)):
        for i in range(count):
            files[f"images/{part}/ADE_{short}_{i:08d}.jpg"] = picture((i, count), format="JPEG")
            files[f"annotations/{part}/ADE_{short}_{i:08d}.png"] = png([0, 150, 1, 2])
    return files


def run(folder: Path, make_params: MakeParams, store: Path, **changes: float) -> dict:
    dataset = Dataset.model_validate({"path": str(folder), "task": "segmentation"})
    return prepare_dataset(dataset, "datasets.x", make_params(folder, **changes), store)["dense"]


@pytest.mark.parametrize(
    ("make", "layout", "classes", "first", "values", "ignored"),
    [
        (voc, "PASCAL VOC", 21, "background", {0, 20, 255, 1}, {".jpg": 1, ".txt": 4, ".xml": 1}),
        (ade20k, "ADE20K", 150, "thing 1", {255, 149, 0, 1}, {".txt": 2}),
    ],
)
def test_the_layout_is_recognized(
    tmp_path: Path,
    picture: Picture,
    make_tree: Build,
    make_params: MakeParams,
    make: Callable[[Picture], Files],
    layout: str,
    classes: int,
    first: str,
    values: set[int],
    ignored: dict[str, int],
) -> None:
    manifest = run(make_tree(tmp_path / "set", make(picture)), make_params, tmp_path / "store")
    assert (manifest["source"]["layout"], manifest["source"]["ignored"]) == (layout, ignored)
    assert (len(manifest["classes"]), manifest["classes"][0], manifest["ignore"]) == (classes, first, 255)
    counts = [manifest["counts"][split]["images"] for split in SPLITS]
    assert counts[1] == 3 and counts[2] >= 1 and sum(counts) == 11
    store = Store(tmp_path / "store")
    for split in SPLITS:
        part = store.dense(split)
        assert part is not None and set(np.unique(part.mask(0)).tolist()) == values


@pytest.mark.parametrize(
    ("make", "name", "content", "reason"),
    [
        (voc, "SegmentationClass/2007_000001.png", None, "JPEGImages/2007_000001.jpg: it has no mask"),
        (voc, "JPEGImages/2007_000001.jpg", None, "SegmentationClass/2007_000001.png: it has no image"),
        (voc, "SegmentationClass/2007_000001.png", png([0], "P", (20, 24)), "its mask is 20x24, the image 24x20"),
        (voc, "SegmentationClass/2007_000001.png", png([21], "P"), "its mask holds the value 21, which is no class"),
        (ade20k, "annotations/training/ADE_train_00000001.png", None, "ADE_train_00000001.jpg: it has no mask"),
        (ade20k, "images/training/ADE_train_00000001.jpg", None, "ADE_train_00000001.png: it has no image"),
        (ade20k, "annotations/training/ADE_train_00000001.png", png([0], size=(20, 24)), "its mask is 20x24"),
        (
            ade20k,
            "annotations/training/ADE_train_00000001.png",
            png([151]),
            "the label 151; ADE20K has the labels",
        ),
        (ade20k, "annotations/training/ADE_train_00000001.png", b"x", "its mask is not a readable PNG"),
    ],
)
def test_pairs_that_do_not_fit_are_refused(
    tmp_path: Path,
    picture: Picture,
    make_tree: Build,
    make_params: MakeParams,
    make: Callable[[Picture], Files],
    name: str,
    content: bytes | None,
    reason: str,
) -> None:
    files = {key: value for key, value in (make(picture) | {name: content}).items() if value is not None}
    folder = make_tree(tmp_path / "set", files)
    with pytest.raises(FrancaError, match="set: 1 of 11 images refused") as caught:
        run(folder, make_params, tmp_path / "store")
    assert reason in str(caught.value) and "\n" not in str(caught.value)
    assert run(folder, make_params, tmp_path / "again", max_refused=0.1)["refused"] == 1


@pytest.mark.parametrize(
    ("make", "changes", "said"),
    [
        (voc, {"ImageSets/Segmentation/train.txt": None}, "PASCAL VOC without images for train"),
        (voc, {"ImageSets/Segmentation/val.txt": b"2007_000000"}, "2007_000000 is in .*train.txt, too; keep one"),
        (ade20k, {"objectInfo150.txt": None}, "objectInfo150.txt: no such file; take it from"),
        (ade20k, {"objectInfo150.txt": b"Idx\tName\n1\twall\n"}, "objectInfo150.txt: 1 classes, not 150"),
    ],
)
def test_incomplete_archives(
    tmp_path: Path,
    picture: Picture,
    make_tree: Build,
    make: Callable[[Picture], Files],
    changes: dict[str, bytes | None],
    said: str,
) -> None:
    files = {key: value for key, value in (make(picture) | changes).items() if value is not None}
    with pytest.raises(FrancaError, match=said):
        open_dense_source(make_tree(tmp_path / "set", files), "datasets.x.path")
