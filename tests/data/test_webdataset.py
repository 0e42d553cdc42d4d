"""Samples of webdataset tars: each image has its own label, one image counts, and what collides is named."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from franca.data.ingest.sources import Sample, Source
from franca.data.ingest.webdataset import is_mask
from franca.errors import FrancaError
from tests.conftest import write_tar

MakeTars = Callable[..., list[Sample]]


@pytest.fixture
def read(tmp_path: Path) -> MakeTars:
    def read(*tars: list[tuple[str, bytes]] | dict[str, bytes]) -> list[Sample]:
        for number, members in enumerate(tars):
            write_tar(tmp_path / f"{number:05d}.tar", members)
        return list(Source(tmp_path, "prepare.source"))

    return read


def labels(samples: list[Sample]) -> dict[str, str | None]:
    return {sample.name: sample.class_name for sample in samples if not sample.problem}


@pytest.mark.parametrize("key", ["IMG.{:04d}", "a.b.{:02d}", "v1.2/x.{}", "{:03d}"])
def test_dots_in_keys(read: MakeTars, key: str) -> None:
    members: dict[str, bytes] = {}
    for i in range(6):
        name = key.format(i)
        members |= {f"{name}.jpg": b"i", f"{name}.cls": str(i % 3).encode(), f"{name}.seg.png": b"m"}
    samples = read(members)
    assert labels(samples) == {f"00000.tar/{key.format(i)}.jpg": str(i % 3) for i in range(6)}
    assert len(samples) == 6


def test_one_image_a_sample(read: MakeTars, tmp_path: Path) -> None:
    members = {"1.jpg": b"1", "1.seg.png": b"m", "1.left.jpg": b"l", "1.cls": b"a", "2.cls": b"b"}
    assert labels(read(members | {"3.PNG": b"3", "3.CLS": b"c"})) == {
        "00000.tar/1.jpg": "a",
        "00000.tar/3.PNG": "c",
    }
    source = Source(tmp_path, "")
    assert len(list(source)) == 2
    assert source.ignored == {".png": 1, ".jpg": 1, ".cls": 1}


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        ([("1.png", b"x")], r"its sample has 2 images \(1.jpg, 1.png\)"),
        ([("1.jpg", b"x")], r"its sample has 2 images \(1.jpg, 1.jpg\)"),
        ([("1.cls", b"7")], r"its sample has 2 labels \(1.cls, 1.cls\)"),
        ([("1.CLS", b"7")], r"its sample has 2 labels \(1.cls, 1.CLS\)"),
        ([("1.coarse.cls", b"7")], r"its sample has 2 labels \(1.cls, 1.coarse.cls\)"),
        ([("3.jpg", b"x"), ("3.cls", b"")], "its label 3.cls is empty"),
        ([("3.jpg", b"x"), ("3.cls", b"\xff")], "its label 3.cls is not UTF-8 text"),
        ([("3.jpg", b"x"), ("3.cls", b"x" * 2000)], "its label 3.cls has 2,000 bytes"),
    ],
)
def test_collisions_are_refused(read: MakeTars, extra: list[tuple[str, bytes]], reason: str) -> None:
    samples = read([("1.jpg", b"1"), ("1.cls", b"5"), ("2.jpg", b"2"), ("2.cls", b"6"), *extra])
    refused = [sample for sample in samples if sample.problem]
    assert refused and {sample.problem for sample in refused} == {refused[0].problem}
    assert str(refused[0].problem).startswith(reason.replace("\\", ""))
    assert labels(samples)["00000.tar/2.jpg"] == "6"


def test_the_same_key_in_two_tars(read: MakeTars) -> None:
    found = read({"1.jpg": b"1", "1.cls": b"a"}, {"1.jpg": b"2", "1.cls": b"b"})
    assert labels(found) == {"00000.tar/1.jpg": "a", "00001.tar/1.jpg": "b"}


def test_keys_are_told_apart_by_their_folders(read: MakeTars) -> None:
    found = read({"x/1.jpg": b"1", "y/1.jpg": b"2", "x/1.cls": b"a", "y/1.cls": b"b", "x/._1.cls": b"mac"})
    assert labels(found) == {"00000.tar/x/1.jpg": "a", "00000.tar/y/1.jpg": "b"}


def test_labels_of_no_image_beside_images_without_one(read: MakeTars) -> None:
    with pytest.raises(FrancaError, match=r"label 1.cls belongs to no image, and image 1.left.jpg has no label"):
        read({"1.left.jpg": b"1", "1.right.jpg": b"2", "1.cls": b"a"})


def test_images_named_like_masks_of_no_image(read: MakeTars) -> None:
    found = read({f"p0.{word}.{end}": word.encode() for word in ("normal", "tumor") for end in ("png", "cls")})
    assert labels(found) == {f"00000.tar/p0.{word}.png": word for word in ("normal", "tumor")}


def test_a_mask_of_no_image_next_to_a_label_of_no_image(read: MakeTars) -> None:
    with pytest.raises(FrancaError, match=r"label 2.cls belongs to no image, and image 2.mask.png has no label"):
        read({"1.jpg": b"1", "1.cls": b"a", "2.mask.png": b"m", "2.cls": b"b"})


@pytest.mark.parametrize("word", ["normal", "tumor"])
def test_an_image_that_would_be_left_out_but_has_a_label(read: MakeTars, word: str) -> None:
    with pytest.raises(FrancaError, match=rf"p0.{word}.png has a label \(p0.{word}.cls\) but belongs to the sample"):
        read({"p0.png": b"1", f"p0.{word}.png": b"2", f"p0.{word}.cls": b"a"})


def test_names_that_are_not_utf8_in_reasons(read: MakeTars) -> None:
    bad = os.fsdecode(b"\xff")
    found = read([(f"{bad}.png", b"1"), (f"{bad}.cls", b""), (f"{bad}2.png", b"2"), (f"{bad}2.jpg", b"2")])
    assert [sample.problem for sample in found] == [
        r"its label \udcff.cls is empty",
        *[r"its sample has 2 images (\udcff2.png, \udcff2.jpg)"] * 2,
    ]


def test_a_byte_order_mark_is_no_part_of_a_class(read: MakeTars) -> None:
    found = read({"1.jpg": b"1", "1.cls": b"cat", "2.jpg": b"2", "2.cls": b"\xef\xbb\xbfcat\r\n"})
    assert set(labels(found).values()) == {"cat"}


def test_shards_named_after_splits(tmp_path: Path) -> None:
    for name in ("x-train-00000", "x-train-00001", "x-val-00000", "x-test-00000"):
        write_tar(tmp_path / f"{name}.tar", {"1.jpg": b"1", "1.cls": b"a"})
    assert [sample.split for sample in Source(tmp_path, "")] == ["test", "train", "train", "val"]


def test_masks() -> None:
    assert all(map(is_mask, ("1.seg.png", "1.MASK.PNG", "1.mask0.png", "1.instance_mask.png", "a.b.depth.tiff")))
    assert not any(map(is_mask, ("1.png", "seg.png", "1.left.png", "IMG.0001.jpg", "mask.1.png")))
