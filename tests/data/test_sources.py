"""Layouts are recognized, order is fixed, and what is no source is told in one line."""

import os
import socket
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from franca.data.ingest.sources.class_tars import ClassTarsSource
from franca.data.ingest.sources.location import Location
from franca.data.ingest.sources.open_source import open_source
from franca.data.ingest.sources.source import Sample
from franca.errors import FrancaError
from tests.conftest import write_tar
from tests.data.conftest import Picture, Place, put

Build = Callable[..., Path]


def read(folder: Path) -> list[Sample]:
    return list(open_source(folder, "prepare.source"))


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
    assert open_source(tmp_path, "").layout == "images"


def test_hidden_files_are_passed_over_and_others_counted(tmp_path: Path, make_tree: Build) -> None:
    files = {
        "a/1.jpg": b"1",
        "a/._1.jpg": b"x",
        ".cache/2.jpg": b"x",
        "__MACOSX/3.jpg": b"x",
        "a/1.txt": b"",
        "R": b"",
    }
    source = open_source(make_tree(tmp_path, files), "")
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
    source = open_source(tmp_path, "")
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
    source = open_source(tmp_path, "")
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
    source = open_source(tmp_path, "prepare.source")
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
        (
            {"train/a.jpg": b"", "validation/b.jpg": b"", "c/d.jpg": b""},
            "c/d.jpg is next to the split folders train and",
        ),
        ({"train/a.jpg": b"", "val/b.jpg": b"", "c.jpg": b""}, "c.jpg is next to the split folders train and val"),
        ({"train/a.jpg": b"", "b.jpg": b""}, "train/a.jpg has a class and b.jpg has none"),
        ({"val/a.jpg": b"", "Test/b.jpg": b""}, "Test/b.jpg and all others are for val or test, none for train"),
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


def test_names_and_classes_are_exact(tmp_path: Path) -> None:
    names = [
        "a\u00a0b/Screenshot 10.15.30\u202fAM.png",
        "a\u00a0b/line\nbreak.png",
        r"a\u00a0b/line\nbreak.png",
        "\u3000/👩‍👩‍👧so\u00adft.png",
        os.fsdecode(b"caf\xe9/1.png"),
    ]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode("utf-8", "surrogateescape"))
    found = {sample.name: (sample.content, sample.class_name) for sample in read(tmp_path)}
    assert found == {
        **{name: (name.encode(), name.partition("/")[0]) for name in names[:4]},
        "//caf%E9/1.png": (b"caf\xe9/1.png", "//caf%E9"),
    }


def test_a_file_without_suffix_is_an_image_if_its_bytes_are_one(
    tmp_path: Path, place: Place, picture: Picture
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("photo", "frame.0001"):
        (source / name).write_bytes(picture(1))
    (source / "README").write_text("no image")
    (source / "empty").touch()
    (source / "z.jpg").write_bytes(b"")
    found = open_source(place(source), "")
    assert [sample.name for sample in found] == ["frame.0001", "photo", "z.jpg"]
    assert found.ignored == {"without suffix": 2}


def test_members_without_suffix(tmp_path: Path, make_tar: Build, picture: Picture) -> None:
    for name in ("sea", "land"):
        make_tar(tmp_path / f"{name}.tar", {"1": picture(1), "2": b"text"})
    source = open_source(tmp_path, "")
    assert [sample.name for sample in source] == ["land.tar/1", "sea.tar/1"]
    assert source.ignored == {"without suffix": 2}


def test_what_is_no_file_is_never_opened(tmp_path: Path, make_tree: Build) -> None:
    make_tree(tmp_path, {"good.jpg": b"1", "locked/x.txt": b""})
    os.mkfifo(tmp_path / "pipe.jpg")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "gone.jpg").symlink_to("nowhere")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    (tmp_path / "null.jpg").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(tmp_path / "socket.jpg"))
        problems = {sample.name: sample.problem for sample in read(tmp_path)}
    assert problems == {
        "good.jpg": None,
        "gone.jpg": "No such file or directory",
        "loop.jpg": "Too many levels of symbolic links",
        "null.jpg": "not a regular file",
        "pipe.jpg": "not a regular file",
        "socket.jpg": "not a regular file",
    }


def test_a_file_that_vanishes_or_is_locked_meanwhile(tmp_path: Path, make_tree: Build, place: Place) -> None:
    where = place(make_tree(tmp_path / "source", {"1.jpg": b"1", "2.jpg": b"2"}))
    source = open_source(where, "")
    put(f"{where}/1.jpg", None)
    assert [(s.name, s.content, s.problem) for s in source] == [
        ("1.jpg", b"", "No such file or directory"),
        ("2.jpg", b"2", None),
    ]


@pytest.mark.parametrize("what", ["gone", "pipe"])
def test_a_tar_that_vanishes_meanwhile(tmp_path: Path, make_tar: Build, what: str) -> None:
    for name in ("sea", "land"):
        make_tar(tmp_path / f"{name}.tar", {"1.jpg": b"1"})
    source = open_source(tmp_path, "")
    (tmp_path / "sea.tar").unlink()
    if what == "pipe":
        os.mkfifo(tmp_path / "sea.tar")
    reason = {"gone": "No such file or directory", "pipe": "not a regular file"}[what]
    with pytest.raises(FrancaError, match=f"sea.tar: {reason}; put the file back") as caught:
        list(source)
    assert "\n" not in str(caught.value)


def test_a_link_to_what_a_hidden_folder_holds(tmp_path: Path, make_tree: Build) -> None:
    make_tree(tmp_path, {".store/abc/1.jpg": b"1"})
    (tmp_path / "photos").symlink_to(".store/abc")
    assert [sample.name for sample in read(tmp_path)] == ["photos/1.jpg"]


def test_a_lone_tar_is_no_class(tmp_path: Path, make_tar: Build) -> None:
    members = {f"data/{name}/{i}.jpg": b"x" for name in ("land", "sea") for i in (1, 2)}
    make_tar(tmp_path / "my_dataset.tar", members)
    assert [sample.class_name for sample in read(tmp_path)] == ["land", "land", "sea", "sea"]


@pytest.mark.parametrize("below", ["", "data/"])
def test_tars_named_after_splits(tmp_path: Path, make_tar: Build, below: str) -> None:
    for split in ("Training", "testing"):
        make_tar(tmp_path / f"{split}.tar", {f"{below}{name}/1.jpg": b"x" for name in ("land", "sea")})
    assert [(sample.split, sample.class_name) for sample in read(tmp_path)] == [
        ("train", "land"),
        ("train", "sea"),
        ("test", "land"),
        ("test", "sea"),
    ]


def test_split_folders_inside_tars(tmp_path: Path, make_tar: Build) -> None:
    for name in ("bottle", "cable"):
        make_tar(tmp_path / f"{name}.tar", {"train/1.jpg": b"1", "test/broken/2.jpg": b"2", "test/good/3.jpg": b"3"})
    found = [(sample.class_name, sample.split) for sample in read(tmp_path)]
    assert found == [(name, split) for name in ("bottle", "cable") for split in ("train", "test", "test")]
    make_tar(tmp_path / "cap.tar", {"1.jpg": b"1"})
    with pytest.raises(FrancaError, match=r"bottle.tar/train/1.jpg is in a split folder and cap.tar/1.jpg is not"):
        read(tmp_path)


def test_a_name_twice_in_a_tar(tmp_path: Path, make_tar: Build) -> None:
    make_tar(tmp_path / "sea.tar", [("1.jpg", b"old"), ("2.jpg", b"2"), ("./1.jpg", b"new")])
    make_tar(tmp_path / "land.tar", {"1.jpg": b"1"})
    found = [(sample.content, sample.problem) for sample in read(tmp_path)][1:]
    assert found == [(b"", "a later file of the tar has the same name"), (b"2", None), (b"new", None)]


def tars(folder: Path, *names: str) -> list[tuple[str, str | None, str | None]]:
    for name in names:
        write_tar(folder / name, {"1.png": b"x"})
    return brief(read(folder))


def test_labels_in_tars_read_as_one_class(tmp_path: Path, make_tar: Build) -> None:
    for name in ("a", "b"):
        images = {f"{i:03d}.png": b"x" for i in range(20)}
        make_tar(tmp_path / f"{name}.tar", images | {f"{i:03d}.cls": b"1" for i in range(20)})
    with pytest.raises(FrancaError, match=r"a.tar: labels \(000.cls\) in a tar that is read as one class; number the"):
        read(tmp_path)


@pytest.mark.parametrize("split", ["train", "test"])
def test_tars_of_splits_in_folders_of_classes(tmp_path: Path, split: str) -> None:
    found = tars(tmp_path, *(f"{name}/{split}.tar" for name in ("cat", "dog") for split in ("train", "test")))
    assert [rest for _, *rest in found if rest[1] == split] == [["cat", split], ["dog", split]]


def test_tars_in_parts_in_folders_of_classes(tmp_path: Path) -> None:
    found = tars(tmp_path, "cat/part1.tar", "cat/part2.tar", "dog/part1.tar")
    assert [class_name for _, class_name, _ in found] == ["cat", "cat", "dog"]


def test_tars_of_one_name_in_several_folders(tmp_path: Path) -> None:
    with pytest.raises(FrancaError, match=r"a/cat.tar and b/cat.tar have the same name"):
        tars(tmp_path, "a/cat.tar", "b/cat.tar", "b/dog.tar")


def test_tars_of_classes_in_folders_of_splits(tmp_path: Path) -> None:
    found = tars(tmp_path, *(f"{split}/{name}.tar" for split in ("test", "train") for name in ("part1", "x")))
    assert [rest for _, *rest in found] == [[name, split] for split in ("test", "train") for name in ("part1", "x")]


@pytest.mark.parametrize("prefix", ["", "cc3m-"])
def test_numbered_tars_of_splits_without_labels(tmp_path: Path, prefix: str) -> None:
    found = tars(tmp_path, *(f"{prefix}{split}-{i:03d}.tar" for split in ("train", "val") for i in (0, 1)))
    assert [rest for _, *rest in found] == [[None, split] for split in ("train", "train", "val", "val")]


def test_tars_of_classes_that_end_like_a_split(tmp_path: Path) -> None:
    names = ["bullet_train", "crash_test", "steam_train"]
    assert [rest for _, *rest in tars(tmp_path, *(f"{name}.tar" for name in names))] == [
        [name, None] for name in names
    ]


def test_many_tars_of_classes_take_linear_time(tmp_path: Path) -> None:
    source = ClassTarsSource(Location(make_class_tars(tmp_path, 3), ""))
    source._tars += [f"{i}.tar" for i in range(200_000)]
    start = time.process_time()
    assert [sample.class_name for sample in source._read([0, 1, 2] * 5)] == ["0", "1", "2"] * 5
    assert time.process_time() - start < 2


def make_class_tars(folder: Path, count: int) -> Path:
    for i in range(count):
        write_tar(folder / f"{i}.tar", {"1.png": b"x"})
    return folder


def test_a_sample_is_spread_over_all_folders(tmp_path: Path, make_tree: Build) -> None:
    make_tree(tmp_path, {f"{name}/{i}.jpg": b"x" for name in "abc" for i in range(50)})
    found = list(open_source(tmp_path, "").subset(100))
    assert len(found) == 100
    assert [sum(sample.class_name == name for sample in found) for name in "abc"] == [34, 33, 33]
    assert len(list(open_source(tmp_path, "").subset(1000))) == 150


def test_a_sample_is_spread_over_all_tars(tmp_path: Path) -> None:
    found = open_source(make_class_tars(tmp_path, 19), "").subset(100)
    assert max(sample.shard for sample in found) == 17


def test_a_sample_has_the_shares_of_the_splits(tmp_path: Path) -> None:
    for split, count in (("train", 90), ("test", 30)):
        for name in "ab":
            write_tar(tmp_path / split / f"{name}.tar", {f"{i}.png": b"x" * 600 for i in range(count)})
    found = Counter(sample.split for sample in open_source(tmp_path, "").subset(80))
    assert found["train"] == pytest.approx(60, abs=4) and found["test"] == pytest.approx(20, abs=4)
