"""Boxes of PASCAL VOC as it comes out of its archive."""

from collections.abc import Callable
from pathlib import Path

import pytest

from franca.data.ingest.prepare import prepare_dataset
from franca.data.store.prepared import Store
from franca.errors import FrancaError
from franca.evaluation.methods.token_cut import Box
from franca.evaluation.sets.boxes import open_boxes
from franca.params import Dataset, Prepare

Build = Callable[..., Path]
Picture = Callable[..., bytes]
MakeParams = Callable[..., Prepare]
Files = dict[str, bytes]


def annotation(*boxes: tuple[object, ...]) -> bytes:
    objects = "".join(
        "<object><name>cat</name><difficult>1</difficult><bndbox>"
        + "".join(f"<{name}>{side}</{name}>" for name, side in zip(("xmax", "xmin", "ymin", "ymax"), box, strict=True))
        + "</bndbox><part><bndbox><xmin>1</xmin></bndbox></part></object>"
        for box in boxes
    )
    return f"<annotation><size><width>24</width></size>{objects}</annotation>".encode()


def voc(picture: Picture) -> Files:
    """Twelve images of 24 x 20 pixels, two of them for test and one in no list."""
    names = [f"{i:06d}" for i in range(12)]
    files = {f"JPEGImages/{name}.jpg": picture(i, format="JPEG") for i, name in enumerate(names)}
    files |= {f"Annotations/{name}.xml": annotation((24, 1, 1, 20), (12, 3.4, 5, 9)) for name in names}
    files |= {"Annotations/000001.xml": annotation(), "ImageSets/Main/cat_trainval.txt": b"000011 1\n"}
    return files | {
        "ImageSets/Main/trainval.txt": "\n".join(names[:9]).encode(),
        "ImageSets/Main/train.txt": "\n".join(names[:4]).encode(),
        "ImageSets/Main/test.txt": "\n".join(names[9:11]).encode(),
    }


def run(folder: Path, make_params: MakeParams, store: Path, **changes: float) -> dict:
    dataset = Dataset.model_validate({"path": str(folder), "task": "boxes"})
    return prepare_dataset(dataset, "datasets.x", make_params(folder, **changes), store)["boxes"]


def test_boxes_count_from_zero_and_contain_their_last_pixel(
    tmp_path: Path, picture: Picture, make_tree: Build, make_params: MakeParams
) -> None:
    manifest = run(make_tree(tmp_path / "set", voc(picture)), make_params, tmp_path / "store")
    assert (manifest["source"]["layout"], manifest["refused"]) == ("PASCAL VOC boxes", 0)
    assert [manifest["counts"][split]["images"] for split in ("train", "val", "test")] == [0, 9, 2]
    store = Store(tmp_path / "store")
    assert store.dense("val") is None and len(store.images("val")) == 0
    assert min(store.channels.std) > 0
    found = open_boxes(store)
    assert found["val"].boxes(0) == [Box(0, 0, 20, 24), Box(4, 2, 9, 12)]
    assert found["val"].boxes(1) == [] and len(found["test"]) == 2
    assert found["val"][0].size == (24, 20)


def test_the_same_set_gives_the_same_store(
    tmp_path: Path, picture: Picture, make_tree: Build, make_params: MakeParams
) -> None:
    folder = make_tree(tmp_path / "set", voc(picture))
    assert run(folder, make_params, tmp_path / "one") == run(folder, make_params, tmp_path / "two")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("Annotations/000002.xml", None, "JPEGImages/000002.jpg: it has no annotation"),
        ("Annotations/000002.xml", b"<annotation>", "its annotation cannot be read (no element found"),
        ("Annotations/000002.xml", annotation((5, "x", 1, 2)), "its annotation cannot be read (could not convert"),
        (
            "Annotations/000002.xml",
            b"<a><object><bndbox><xmin>1</xmin></bndbox></object></a>",
            "its annotation cannot be read (a box without ymin)",
        ),
        (
            "Annotations/000002.xml",
            annotation((25, 1, 1, 20)),
            "the box [0, 0, 25, 20] is not inside the image, 24x",
        ),
    ],
)
def test_bad_annotations_are_refused(
    tmp_path: Path,
    picture: Picture,
    make_tree: Build,
    make_params: MakeParams,
    name: str,
    content: bytes | None,
    reason: str,
) -> None:
    files = {key: value for key, value in (voc(picture) | {name: content}).items() if value is not None}
    folder = make_tree(tmp_path / "set", files)
    with pytest.raises(FrancaError, match="set: 1 of 11 images refused") as caught:
        run(folder, make_params, tmp_path / "store")
    assert reason in str(caught.value) and "\n" not in str(caught.value)
    assert run(folder, make_params, tmp_path / "again", max_refused=0.1)["refused"] == 1


def test_other_folders_are_one_line(
    tmp_path: Path, picture: Picture, make_tree: Build, make_params: MakeParams
) -> None:
    with pytest.raises(FrancaError, match=r"set: no ImageSets/Main; boxes are read .* change datasets\.x\.path or"):
        run(make_tree(tmp_path / "set", {"a/1.jpg": picture(1)}), make_params, tmp_path / "store")
    files = {key: value for key, value in voc(picture).items() if key != "ImageSets/Main/trainval.txt"}
    with pytest.raises(FrancaError, match="without images for val; unpack the whole archive"):
        run(make_tree(tmp_path / "half", files), make_params, tmp_path / "store")
