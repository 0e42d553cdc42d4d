"""Layouts are recognized, order is fixed, and what is no source is told in one line."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from franca.data.sources import Sample, Source
from franca.errors import FrancaError

Build = Callable[..., Path]


def read(folder: Path) -> list[Sample]:
    return list(Source(folder, "prepare.source"))


def brief(samples: list[Sample]) -> list[tuple[str, str | None, str | None]]:
    return [(sample.name, sample.class_name, sample.split) for sample in samples]


def test_folder_of_images_without_classes(tmp_path: Path, make_tree: Build) -> None:
    make_tree(tmp_path, {"b.jpg": b"2", "a.PNG": b"1", "c.webp": b"3"})
    assert [(s.name, s.content, s.class_name, s.split) for s in read(tmp_path)] == [
        ("a.PNG", b"1", None, None),
        ("b.jpg", b"2", None, None),
        ("c.webp", b"3", None, None),
    ]


def test_class_is_the_first_folder_below_the_split(tmp_path: Path, make_tree: Build) -> None:
    make_tree(tmp_path, {"train/sea/x/1.jpg": b"1", "test/land/2.jpg": b"2", "val/sea/3.jpg": b"3"})
    assert brief(read(tmp_path)) == [
        ("test/land/2.jpg", "land", "test"),
        ("train/sea/x/1.jpg", "sea", "train"),
        ("val/sea/3.jpg", "sea", "val"),
    ]
    assert Source(tmp_path, "").layout == "images"


def test_hidden_files_are_passed_over_and_others_counted(tmp_path: Path, make_tree: Build) -> None:
    files = {
        "a/1.jpg": b"1",
        "a/._1.jpg": b"x",
        ".cache/2.jpg": b"x",
        "__MACOSX/3.jpg": b"x",
        "a/1.txt": b"",
        "R": b"",
    }
    source = Source(make_tree(tmp_path, files), "")
    assert [sample.name for sample in source] == ["a/1.jpg"]
    assert source.ignored == {".txt": 1, "without suffix": 1}


def test_linked_folders_are_read_once(tmp_path: Path, make_tree: Build) -> None:
    make_tree(tmp_path / "far", {"1.jpg": b"1"})
    make_tree(tmp_path / "source/here", {"2.jpg": b"2"})
    (tmp_path / "source/there").symlink_to(tmp_path / "far")
    (tmp_path / "source/here/loop").symlink_to(tmp_path / "source")
    assert [sample.name for sample in read(tmp_path / "source")] == ["here/2.jpg", "there/1.jpg"]


def test_one_tar_a_class(tmp_path: Path, make_tar: Build) -> None:
    make_tar(tmp_path / "train/n01440764.tar", {"n01440764_2.JPEG": b"2", "n01440764_1.JPEG": b"1"})
    make_tar(tmp_path / "test/n01440764.tar", {"./deep/n01440764_3.JPEG": b"3", "notes.xml": b""})
    source = Source(tmp_path, "")
    assert brief(list(source)) == [
        ("test/n01440764.tar/deep/n01440764_3.JPEG", "n01440764", "test"),
        ("train/n01440764.tar/n01440764_2.JPEG", "n01440764", "train"),
        ("train/n01440764.tar/n01440764_1.JPEG", "n01440764", "train"),
    ]
    assert source.layout == "class tars"
    assert source.ignored == {".xml": 1}
    assert source.bytes_read == source.total_bytes


def test_webdataset_tars_by_number(tmp_path: Path, make_tar: Build) -> None:
    sample = {"000.jpg": b"1", "000.json": b"{}", "000.txt": b"a sea", "001.webp": b"2"}
    make_tar(tmp_path / "00000.tar", sample)
    make_tar(tmp_path / "00001.tar", {"000.jpg": b"3"})
    source = Source(tmp_path, "")
    assert brief(list(source)) == [
        ("00000.tar/000.jpg", None, None),
        ("00000.tar/001.webp", None, None),
        ("00001.tar/000.jpg", None, None),
    ]
    assert source.layout == "webdataset tars"


def test_a_folder_as_img2dataset_writes_it(tmp_path: Path, make_tree: Build, make_tar: Build) -> None:
    """Tables and statistics lie beside the tars, captions and metadata in them; some samples have no image."""
    for shard in ("00000", "00001"):
        make_tree(tmp_path, {f"{shard}.parquet": b"PAR1", f"{shard}_stats.json": b"{}"})
        members = {f"{shard}{i:04d}.{end}": b"x" for i in range(3) for end in ("jpg", "json", "txt")}
        make_tar(tmp_path / f"{shard}.tar", members | {f"{shard}0003.json": b"{}", f"{shard}0003.txt": b"gone"})
    source = Source(tmp_path, "prepare.source")
    samples = list(source)
    assert brief(samples) == [(f"{s}.tar/{s}{i:04d}.jpg", None, None) for s in ("00000", "00001") for i in range(3)]
    assert source.layout == "webdataset tars"
    assert source.ignored == {".parquet": 2, ".json": 10, ".txt": 8}
    assert [(shard.name, shard.size) for shard in source.shards] == [
        (f"{shard}.tar", (tmp_path / f"{shard}.tar").stat().st_size) for shard in ("00000", "00001")
    ]
    for sample in samples:
        tar = (tmp_path / source.shards[sample.shard].name).read_bytes()
        assert tar[sample.offset : sample.offset + len(sample.content)] == sample.content


@pytest.mark.parametrize("sidecar", ["cls", "json"])
def test_webdataset_tars_by_their_sidecars(tmp_path: Path, make_tar: Build, sidecar: str) -> None:
    make_tar(tmp_path / "photos.tar", {"a/1.jpg": b"1", f"a/1.{sidecar}": b" 7\n"})
    assert brief(read(tmp_path)) == [("photos.tar/a/1.jpg", "7" if sidecar == "cls" else None, None)]


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "no file at all"),
        ({"a.txt": b"", "b.txt": b""}, "2 .txt"),
        ({"a.tar": b"", "b.jpg": b""}, "keep one kind"),
        ({"train/a.jpg": b"", "validation/b.jpg": b""}, "validation/b.jpg lies beside"),
        ({"train/a.jpg": b"", "b.jpg": b""}, "b.jpg lies beside"),
        ({"sea/a.jpg": b"", "b.jpg": b""}, "b.jpg has none"),
        ({"a.tar": b""}, "not an uncompressed tar"),
        ({"a.tar": b"\x1f\x8b\x08\x00 compressed"}, "not an uncompressed tar"),
    ],
)
def test_what_is_no_source_is_told_in_one_line(tmp_path: Path, make_tree: Build, files: dict, said: str) -> None:
    make_tree(tmp_path, files)
    with pytest.raises(FrancaError, match=said) as caught:
        read(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        FrancaError, match=r"nowhere: no such folder; run `dvc pull data.dvc` or change prepare.source"
    ):
        read(tmp_path / "nowhere")
    with pytest.raises(FrancaError, match="file: not a folder"):
        read(tmp_path / "file")


def test_labels_for_some_samples_only(tmp_path: Path, make_tar: Build) -> None:
    make_tar(tmp_path / "00000.tar", {"1.jpg": b"1", "1.cls": b"3", "2.jpg": b"2"})
    with pytest.raises(FrancaError, match=r"1.jpg has a class and 00000.tar/2.jpg has none"):
        read(tmp_path)


def test_names_that_are_no_text_are_escaped(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/caf\xe9\n.jpg"
    with open(path, "wb") as file:
        file.write(b"1")
    (sample,) = read(tmp_path)
    assert sample.name == r"caf\udce9\n.jpg"
    assert sample.content == b"1"
