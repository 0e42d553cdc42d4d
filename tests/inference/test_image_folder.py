from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from franca.data.store.images.decode import decode
from franca.data.store.transform import resize_and_crop
from franca.errors import FrancaError
from franca.inference.image_folder import Found, ImageFolder, load_squares
from tests.inference.conftest import Picture

NAMES = ["a.tar/2.png", "a.tar/1.png", "a/b/y.JPG", "b/x.png", "c.bmp"]


def test_files_and_members_of_tars_in_the_order_of_their_names(photos: Path) -> None:
    folder = ImageFolder(photos)
    assert [found.name for found in folder] == NAMES
    assert folder.bytes_read == folder.total_bytes
    assert [found.name for found in folder] == NAMES, "it can be read again"
    assert ImageFolder(photos, tars=False).names == NAMES[2:]


def test_squares_are_what_evaluation_sees_and_bad_images_keep_their_place(photos: Path, picture: Picture) -> None:
    (photos / "bad.png").write_bytes(picture(0)[:200])
    squares = dict(load_squares(ImageFolder(photos), 32, threads=3, ahead=2))
    assert list(squares) == [*NAMES[:4], "bad.png", NAMES[4]]
    expected = resize_and_crop(decode((photos / "c.bmp").read_bytes()), 32)
    np.testing.assert_array_equal(squares["c.bmp"], np.asarray(expected))
    assert isinstance(squares["bad.png"], str) and "truncated" in squares["bad.png"]


def test_no_more_is_read_ahead_than_is_allowed(picture: Picture) -> None:
    read = 0

    def endless() -> Iterator[Found]:
        nonlocal read
        while True:
            read += 1
            yield Found(f"{read}.png", picture(read))

    squares = load_squares(endless(), 8, threads=2, ahead=5)
    for taken in range(1, 20):
        next(squares)
        assert read <= taken + 5
    squares.close()


def test_what_is_no_folder_of_images(tmp_path: Path) -> None:
    with pytest.raises(FrancaError, match="gone: no such folder"):
        ImageFolder(tmp_path / "gone")
    (tmp_path / "file.txt").touch()
    with pytest.raises(FrancaError, match=r"file.txt: not a folder"):
        ImageFolder(tmp_path / "file.txt")
    with pytest.raises(FrancaError, match=r"no image in it; files count by their suffix \(.*\.bmp, .*\.tar, "):
        ImageFolder(tmp_path)
