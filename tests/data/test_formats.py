"""Files are recognized by their suffix or by their first bytes."""

import io
import struct
import sys
import tarfile

import numpy as np
import pillow_heif
import pytest
from PIL import Image

from benchmarks.decoding.writers import pnm, tiff
from franca.data.store.images.decode import SUFFIXES, decode, looks_like_image, refusal

GRAY = np.zeros((4, 4, 1), dtype=np.uint8)


def encode(format: str, mode: str = "RGB") -> bytes:
    pillow_heif.register_heif_opener()
    buffer = io.BytesIO()
    Image.new(mode, (32, 24)).save(buffer, format)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "format", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000", "AVIF", "HEIF", "MPO"]
)
def test_an_image_is_recognized_by_its_first_bytes(format: str) -> None:
    content = encode(format)
    assert looks_like_image(content[:64])
    assert decode(content).size == (32, 24)


def test_variants_are_recognized() -> None:
    for mode in ("1", "L"):
        assert looks_like_image(encode("PPM", mode))
    assert looks_like_image(pnm(GRAY, 255, plain=True))
    for order in "<>":
        for big in (False, True):
            assert looks_like_image(tiff(GRAY, 8, 1, order=order, big=big))
    buffer = io.BytesIO()
    Image.new("RGB", (32, 24)).save(buffer, "JPEG2000", no_jp2=True)
    assert looks_like_image(buffer.getvalue())


def test_other_files_are_not_images() -> None:
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("Painting.txt"))
    video = struct.pack(">I", 24) + b"ftypisom" + bytes(4) + b"isommp42"
    others = [b"", b"B", b"P", b"P5", b"PK\3\4", b"%PDF-1.7", b"<html>", b"GIF", b"RIFF\0\0\0\0WAVEfmt ", b"{}", video]
    others += [b"BMW cars are listed below, one a line", b"P5X", b"MM", b"II", tar.getvalue()]
    for content in others:
        assert not looks_like_image(content[:64]), content[:64]


def test_suffixes_cover_what_is_read() -> None:
    assert {".jpg", ".jfif", ".jpe", ".pgm", ".pbm", ".pnm", ".avif", ".heic", ".heif", ".j2k", ".jpx"} <= SUFFIXES
    assert not SUFFIXES & {".tar", ".txt", ".json", ".pdf", ".eps", ".mp4", ".svg"}


def test_heic_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    content = encode("HEIF")
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(ValueError, match="HEIC needs another package; install pillow-heif") as caught:
        decode(content)
    assert refusal(caught.value).endswith("install pillow-heif")
