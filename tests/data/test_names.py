"""Names are stored exactly, told apart, and harmless on a screen."""

import os
from urllib.parse import unquote_to_bytes

import pytest

from franca.data.store.files.names import as_text, hidden, kind, printable, suffix

EXACT = [
    "Screenshot 10.15.30\u202fAM.png",
    "a\u00a0b",
    "\u3000",
    "👩‍👩‍👧.jpg",
    "so\u00adft",
    "line\nbreak",
    r"line\nbreak",
    "%E9",
]


@pytest.mark.parametrize("name", EXACT)
def test_utf_8_is_stored_as_it_is(name: str) -> None:
    assert as_text(name) == name


@pytest.mark.parametrize("raw", [b"caf\xe9.jpg", b"a/\xff\xfe/b c.jpg", b"caf\xc3\xa9/\xe9", b"//slashes"])
def test_other_bytes_are_stored_without_loss(raw: bytes) -> None:
    text = as_text(os.fsdecode(raw))
    text.encode()
    assert text.startswith("//") and unquote_to_bytes(text[2:]) == raw


def test_no_two_names_are_stored_alike() -> None:
    names = [*EXACT, "café", "caf\udce9", r"caf\udce9", "caf%E9", "//caf%E9", "////caf%25E9"]
    assert len({as_text(name) for name in names}) == len(names)


def test_a_message_keeps_to_its_line_and_direction() -> None:
    assert printable("a\nb\x1b[31m\u2028\u202e\x9b\udce9") == r"a\nb\x1b[31m\u2028\u202e\x9b\udce9"
    assert printable("é 👩‍👩‍👧 漢字\u3000\u202f") == "é 👩‍👩‍👧 漢字\u3000\u202f"


@pytest.mark.parametrize(
    "name",
    [
        ".cache/1.jpg",
        "a/._1.jpg",
        "__MACOSX/1.jpg",
        "@eaDir/1.jpg/SYNOPHOTO_THUMB_M.jpg",
        "photos/$RECYCLE.BIN/1.jpg",
        "System Volume Information/1.jpg",
        "lost+found/1.jpg",
        "a/Thumbs.db",
        "#recycle/1.jpg",
    ],
)
def test_what_systems_leave_behind_is_passed_over(name: str) -> None:
    assert hidden(name)
    assert not hidden("../found/thumbs/1.jpg")


def test_kinds_of_files() -> None:
    assert [suffix(name) for name in ("a.JPG", "a.tar", "a", "a.b/c", "IMG.0001")] == [".jpg", ".tar", "", "", ""]
    assert [kind(name) for name in ("a.TXT", "README", "a.\udce9")] == [".txt", "without suffix", "//.%E9"]
