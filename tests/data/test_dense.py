"""Dense sets: pairs of image and mask, scenes that stay whole, masks that fit."""

import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.decoding.writers import png
from franca.data.ingest.dense import DenseSource
from franca.data.ingest.prepare import prepare
from franca.data.store.prepared import SPLITS, Store
from franca.errors import FrancaError
from franca.files import read_json
from franca.params import Prepare

Build = Callable[..., Path]
Picture = Callable[..., bytes]
MakeParams = Callable[..., Prepare]
CLASSES = json.dumps({"classes": ["land", "sea"], "ignore": 255, "note": "kept out"}).encode()


def mask(seed: int = 0, size: tuple[int, int] = (24, 20), mode: str = "L") -> bytes:
    values = np.random.default_rng(seed).choice([0, 1, 255], size[::-1]).astype(np.uint8)
    image = Image.fromarray(values)
    if mode == "P":
        image.putpalette(list(range(256)) * 3)
    buffer = io.BytesIO()
    (image if mode in ("L", "P") else image.convert(mode)).save(buffer, "PNG")
    return buffer.getvalue()


def scenes(picture: Picture, count: int, tiles: int = 4) -> dict[str, bytes]:
    files = {}
    for i in range(count):
        for j in range(tiles):
            files[f"images/tile{i}_{j:03d}.jpg"] = picture((50, i, j), format="JPEG")
            files[f"masks/tile{i}_{j:03d}.png"] = mask(10 * i + j, mode="LP"[j % 2])
    return files


@pytest.fixture
def source(tmp_path: Path, picture: Picture, make_tree: Build) -> Path:
    return make_tree(tmp_path / "source", {f"{i}.png": picture(i) for i in range(30)})


def test_scenes_stay_whole_and_masks_stay_with_their_images(
    tmp_path: Path, source: Path, picture: Picture, make_tree: Build, make_params: MakeParams
) -> None:
    files = scenes(picture, 8)
    dense = make_tree(tmp_path / "dense", files | {"classes.json": CLASSES, "notes.txt": b""})
    manifest = prepare(make_params(source, dense), tmp_path / "prepared")["dense"]
    assert (manifest["classes"], manifest["ignore"]) == (["land", "sea"], 255)
    assert manifest["source"]["ignored"] == {".txt": 1}
    store = Store(tmp_path / "prepared")
    seen: dict[str, set[int]] = {}
    for split in SPLITS:
        part = store.dense(split)
        assert part is not None and len(part) == manifest["counts"][split]["images"] > 0
        for index in range(len(part)):
            content = part._pack[int(part.rows[index])]
            (name,) = [name for name, other in files.items() if other == content]
            seen.setdefault(name.split("_")[0], set()).add(SPLITS.index(split))
            number = 10 * int(name[len("images/tile")]) + int(name[-7:-4])
            assert (part.mask(index) == np.asarray(Image.open(io.BytesIO(mask(number))))).all()
    assert len(seen) == 8
    assert all(len(splits) == 1 for splits in seen.values())


def test_tars_and_folders_are_the_same(
    tmp_path: Path, source: Path, picture: Picture, make_tree: Build, make_tar: Build, make_params: MakeParams
) -> None:
    train, test = (
        scenes(picture, 4),
        {k.replace("tile", "other"): v for k, v in scenes(picture, 9).items() if "8_" in k},
    )
    make_tree(tmp_path / "folders", {"classes.json": CLASSES})
    make_tree(tmp_path / "tars", {"classes.json": CLASSES})
    for name, files in (("train", train), ("test", test)):
        make_tree(tmp_path / "folders" / name, files)
        make_tar(tmp_path / f"tars/{name}.tar", files)
    one = prepare(make_params(source, tmp_path / "folders"), tmp_path / "one")["dense"]
    two = prepare(make_params(source, tmp_path / "tars"), tmp_path / "two")["dense"]
    assert one["counts"] == two["counts"]
    assert one["counts"]["test"]["images"] == 4
    assert one["counts"]["val"]["images"] == 4
    assert list(one["files"].values()) == list(two["files"].values())


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("masks/tile0_000.png", None, "images/tile0_000.jpg: it has no mask"),
        ("images/tile0_000.jpg", None, "masks/tile0_000.png: it has no image"),
        ("masks/tile0_000.png", mask(size=(20, 24)), "its mask is 20x24, the image 24x20"),
        ("masks/tile0_000.png", mask(mode="RGB"), "its mask has mode RGB; it must be an 8-bit index PNG"),
        ("masks/tile0_000.png", mask(mode="1"), "its mask has mode 1"),
        ("masks/tile0_000.png", png(np.zeros((20, 24, 1), np.uint8), 4, 0), "its mask is a gray PNG of 4 bits"),
        ("masks/tile0_000.png", mask().replace(b"IDAT", b"IDAX"), "its mask is not a readable PNG"),
        ("masks/tile0_000.png", b"", "its mask is not a readable PNG"),
        ("images/tile0_000.jpg", b"", "empty file"),
    ],
)
def test_pairs_that_do_not_fit_are_refused(
    tmp_path: Path,
    source: Path,
    picture: Picture,
    make_tree: Build,
    make_params: MakeParams,
    name: str,
    content: bytes | None,
    reason: str,
) -> None:
    files = scenes(picture, 5) | {"classes.json": CLASSES}
    files = {key: value for key, value in (files | {name: content}).items() if value is not None}
    dense = make_tree(tmp_path / "dense", files)
    with pytest.raises(FrancaError, match=r"dense: 1 of 20 images refused") as caught:
        prepare(make_params(source, dense), tmp_path / "prepared")
    assert reason in str(caught.value)
    manifest = prepare(make_params(source, dense, max_refused=0.1), tmp_path / "again")
    assert manifest["dense"]["refused"] == 1
    assert sum(part["images"] for part in manifest["dense"]["counts"].values()) == 19


def test_index_that_is_no_class(
    tmp_path: Path, source: Path, picture: Picture, make_tree: Build, make_params: MakeParams
) -> None:
    wrong = io.BytesIO()
    Image.new("L", (24, 20), 2).save(wrong, "PNG")
    files = scenes(picture, 5) | {"classes.json": CLASSES, "masks/tile0_000.png": wrong.getvalue()}
    with pytest.raises(FrancaError, match=r"its mask holds the value 2, which is no class and not ignore \(255\)"):
        prepare(make_params(source, make_tree(tmp_path / "dense", files)), tmp_path / "prepared")


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (None, "classes.json: no such file"),
        (b"{", "classes.json: not valid JSON"),
        (b'{"classes": ["a", "b"]}', "classes.json: ignore: missing key"),
        (b'{"classes": ["a"], "ignore": 255}', "classes.json: classes: list should have at least 2 items"),
        (b'{"classes": ["a", "b"], "ignore": 1}', "ignore 1 is the index of class b"),
    ],
)
def test_bad_classes(
    tmp_path: Path, source: Path, make_tree: Build, make_params: MakeParams, classes: bytes | None, said: str
) -> None:
    dense = make_tree(
        tmp_path / "dense", {"images/a.jpg": b""} | ({} if classes is None else {"classes.json": classes})
    )
    with pytest.raises(FrancaError, match=said):
        prepare(make_params(source, dense), tmp_path / "prepared")


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"other/a.jpg": b""}, "no image under images/"),
        ({"train/images/a_1.jpg": b"", "train.tar": b""}, "both train and train.tar are for train; keep one"),
        ({"images/a_1.jpg": b"", "images/a_1.png": b"", "masks/a_1.png": b""}, "has the same stem"),
    ],
)
def test_what_is_no_dense_set(
    tmp_path: Path, source: Path, make_tree: Build, make_params: MakeParams, files: dict[str, bytes], said: str
) -> None:
    dense = make_tree(tmp_path / "dense", files | {"classes.json": CLASSES})
    with pytest.raises(FrancaError, match=said):
        prepare(make_params(source, dense), tmp_path / "prepared")


def test_pairs_that_cannot_be_read_are_refused(
    tmp_path: Path, source: Path, picture: Picture, make_tree: Build, make_params: MakeParams
) -> None:
    dense = make_tree(tmp_path / "dense", scenes(picture, 5) | {"classes.json": CLASSES})
    for name in ("images/tile0_000.jpg", "masks/tile0_001.png", "images/tile0_002.jpg"):
        (dense / name).unlink()
    (dense / "images/tile0_000.jpg").symlink_to("nowhere")
    (dense / "masks/tile0_001.png").symlink_to("nowhere")
    os.mkfifo(dense / "images/tile0_002.jpg")
    prepare(make_params(source, dense, max_refused=1.0), tmp_path / "prepared")
    assert read_json(tmp_path / "prepared/dense/refused.json") == [
        {"path": "images/tile0_000.jpg", "reason": "No such file or directory"},
        {"path": "images/tile0_001.jpg", "reason": "its mask cannot be read: No such file or directory"},
        {"path": "images/tile0_002.jpg", "reason": "not a regular file"},
    ]


def test_parts_under_other_names_of_splits(
    tmp_path: Path, source: Path, picture: Picture, make_tree: Build, make_params: MakeParams
) -> None:
    files = {f"Training/{name}": content for name, content in scenes(picture, 4).items()}
    files |= {f"validation/{name}": content for name, content in scenes(picture, 9).items() if "8_" in name}
    dense = make_tree(tmp_path / "dense", files | {"classes.json": CLASSES, "README": b""})
    manifest = prepare(make_params(source, dense), tmp_path / "prepared")["dense"]
    assert manifest["counts"]["val"]["images"] == 4
    assert manifest["source"]["ignored"] == {"without suffix": 1}
    make_tree(dense, {"images/x_1.jpg": b""})
    with pytest.raises(FrancaError, match=r"images/x_1.jpg is next to Training and validation; put all images"):
        prepare(make_params(source, dense), tmp_path / "again")


def test_one_scene_cannot_be_split(
    tmp_path: Path, source: Path, picture: Picture, make_tree: Build, make_params: MakeParams
) -> None:
    dense = make_tree(tmp_path / "dense", scenes(picture, 1) | {"classes.json": CLASSES})
    with pytest.raises(FrancaError, match=r"no image for val and test: too few scenes \(names up to"):
        prepare(make_params(source, dense), tmp_path / "prepared")


def test_a_dense_set_must_be_local(tmp_path: Path, source: Path, make_params: MakeParams) -> None:
    params = make_params(source).model_copy(update={"dense_source": "s3://bucket/dense"})
    with pytest.raises(FrancaError, match=r"prepare.dense_source: s3://bucket/dense is a URL; copy it into a local"):
        prepare(params, tmp_path / "prepared")


def test_a_part_without_images(tmp_path: Path, make_tree: Callable[..., Path]) -> None:
    classes = b'{"classes": ["a", "b"], "ignore": 255}'
    files = {"train/images/x_1.png": b"x", "train/masks/x_1.png": b"x", "val/Images/x_1.png": b"x"}
    make_tree(tmp_path, {"classes.json": classes, **files})
    with pytest.raises(FrancaError, match=r"val: no image under images/"):
        list(DenseSource(tmp_path, ""))
