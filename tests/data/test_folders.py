"""Folders wherever they are: the same names and bytes, and one clear line for what is wrong with a place."""

import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from moto.core.authorization import enable_iam_authentication

from franca.data.store.files.folders import LocalFolder, open_folder, read_file
from franca.errors import FrancaError
from franca.inference.image_folder import Found
from tests.data.conftest import Place, put

Build = Callable[..., Path]
TREE = {
    "b/2.tar": b"0123456789",
    "a.tar": b"abc",
    ".hidden/3.tar": b"",
    "b/.4.tar": b"",
    "__MACOSX/5": b"",
    "notes": b"",
}


def test_names_sizes_and_bytes(tmp_path: Path, make_tree: Build, place: Place) -> None:
    folder = open_folder(place(make_tree(tmp_path / "source", TREE)))
    assert folder.names("prepare.source") == ["a.tar", "b/2.tar", "notes"]
    assert [folder.size(name) for name in ("a.tar", "b/2.tar", "notes")] == [3, 10, 0]
    assert folder.current_size("b/2.tar") == 10
    assert folder.read("b/2.tar") == b"0123456789"
    with folder.fetch("b/2.tar") as file:
        assert (file.read(), file.seek(2), file.read(3)) == (b"0123456789", 2, b"234")
    assert folder.ranges(["b/2.tar", "a.tar", "b/2.tar"], [3, 1, 8], [5, 3, 10]) == [b"34", b"bc", b"89"]
    assert folder.ranges(["a.tar"], [1], [9]) == [b"bc"]
    (gone,) = folder.ranges(["gone.tar"], [0], [9])
    assert isinstance(gone, FileNotFoundError)
    with pytest.raises(FileNotFoundError):
        folder.current_size("gone.tar")


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_a_path_and_its_url_are_one_folder(tmp_path: Path, make_tree: Build, prefix: str) -> None:
    folder = open_folder(prefix + str(make_tree(tmp_path, TREE)))
    assert isinstance(folder, LocalFolder) and str(folder) == str(tmp_path)


def fails(url: str, said: str) -> None:
    with pytest.raises(FrancaError, match=said) as caught:
        open_folder(url).names("prepare.source")
    assert str(caught.value).startswith(f"prepare.source: {url}: ") or str(caught.value).startswith(f"{url}: ")
    assert "\n" not in str(caught.value)


def test_a_place_of_which_nothing_is_known() -> None:
    fails("nowhere://bucket/images", "Protocol not known: nowhere.*check the address")


def test_a_place_whose_package_is_not_installed() -> None:
    fails("gs://bucket/images", "gcsfs.*for S3 `pip install s3fs`")


def test_a_bucket_that_does_not_exist(s3: str) -> None:
    fails(f"{s3}-other/images", "not found .*bucket does not exist.*check the address")


def test_a_server_that_does_not_listen(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free.getsockname()[1]}")
    fails(f"{s3}/images", r"Could not connect to the endpoint URL.*check the address, the network and the keys")


def test_keys_that_nobody_knows(s3: str) -> None:
    with enable_iam_authentication():
        fails(f"{s3}/images", "access denied .*check the keys")


def test_no_keys_at_all(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    fails(f"{s3}/images", "Unable to locate credentials.*the AWS_. variables")


def test_a_full_disk_under_what_is_fetched_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """/dev/full stands for the disk that the copy of a remote file would go to."""
    put("memory://full/a.tar", bytes(1000))
    with open("/dev/full", "r+b", buffering=0) as full:
        monkeypatch.setattr("tempfile.TemporaryFile", lambda: full)
        with pytest.raises(OSError, match="No space left on device"), open_folder("memory://full").fetch("a.tar"):
            pass


def test_an_error_of_the_disk_is_no_bad_image(tmp_path: Path) -> None:
    """Reading /proc/self/mem at 0 fails with EIO."""
    (tmp_path / "1.jpg").symlink_to("/proc/self/mem")
    with pytest.raises(OSError, match=r"Input/output error.*1.jpg"):
        read_file(tmp_path / "1.jpg")
    with pytest.raises(OSError, match=r"Input/output error.*1.jpg"):
        LocalFolder(tmp_path).heads(["1.jpg"])
    with pytest.raises(OSError, match=r"Input/output error.*1.jpg"):
        Found("1.jpg", tmp_path / "1.jpg").open()


def test_heads_of_files_that_are_gone(tmp_path: Path) -> None:
    assert LocalFolder(tmp_path).heads(["gone"]) == [b""]


def test_a_link_does_not_take_the_place_of_its_target(tmp_path: Path, make_tree: Build) -> None:
    make_tree(tmp_path, {"a/x.txt": b"", "train/cat/1.jpg": b"1"})
    (tmp_path / "a/newest").symlink_to("../train")
    (tmp_path / "latest").symlink_to("train")
    assert LocalFolder(tmp_path).names("") == ["a/x.txt", "train/cat/1.jpg"]
