"""Writers of image files, bit by bit, so that the correct pixels are known without another decoder."""

import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[Any]
"""Unsigned integers of shape (H, W, C)."""
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""First column and row of each pass of an interlaced PNG, and the distances of its columns and rows."""


def pack_rows(samples: Samples, bits: int, order: str) -> bytes:
    """Return packed rows, padded to whole bytes; the most significant bit is first, unless a sample is whole bytes."""
    if bits in (8, 16, 32):
        return samples.astype(f"{order}u{bits // 8}").tobytes()
    rows = samples.reshape(len(samples), -1, 1).astype(np.uint32)
    split = (rows >> np.arange(bits - 1, -1, -1, dtype=np.uint32)) & 1
    return np.packbits(split.reshape(len(samples), -1).astype(np.uint8), axis=1).tobytes()


def tiff(
    samples: Samples,
    bits: int,
    photometric: int | None,
    *,
    order: str = "<",
    big: bool = False,
    planar: bool = False,
    tile: int = 0,
    rows: int = 0,
    orientation: int = 1,
    extra: Sequence[int] = (),
    kind: int = 1,
    colors: NDArray[np.uint16] | None = None,
    tags: dict[int, tuple[int, Sequence[int]]] | None = None,
) -> bytes:
    """Return an uncompressed TIFF file.

    Args:
        samples: The samples to store, as unsigned numbers of `bits` bits.
        bits: BitsPerSample.
        photometric: PhotometricInterpretation; None leaves the tag out.
        order: "<" or ">".
        big: BigTIFF.
        planar: One plane a channel.
        tile: Side of square tiles; 0 for strips.
        rows: Rows a strip; 0 for all.
        orientation: As in EXIF.
        extra: ExtraSamples.
        kind: SampleFormat.
        colors: ColorMap, (3, 2**bits).
        tags: Further tags: type (3 or 4) and values.
    """
    height, width, channels = samples.shape
    planes = [samples[..., i : i + 1] for i in range(channels)] if planar else [samples]
    segments = []
    for plane in planes:
        if tile:
            padded = np.pad(plane, ((0, -height % tile), (0, -width % tile), (0, 0)), mode="edge")
            for y in range(0, height, tile):
                segments += [padded[y : y + tile, x : x + tile] for x in range(0, width, tile)]
        else:
            step = rows or height
            segments += [plane[y : y + step] for y in range(0, height, step)]
    packed = [pack_rows(segment, bits, order) for segment in segments]

    body = (struct.pack(order + "2sHHHQ", _mark(order), 43, 8, 0, 0) if big else
            struct.pack(order + "2sHI", _mark(order), 42, 0))  # fmt: skip
    offsets = []
    for part in packed:
        offsets.append(len(body))
        body += part + bytes(len(part) % 2)
    entries: dict[int, tuple[int, Sequence[int]]] = {
        256: (4, [width]),
        257: (4, [height]),
        258: (3, [bits] * channels),
        259: (3, [1]),
        277: (3, [channels]),
        274: (3, [orientation]),
        284: (3, [2 if planar else 1]),
        339: (3, [kind] * channels),
    }
    if photometric is not None:
        entries[262] = (3, [photometric])
    if extra:
        entries[338] = (3, extra)
    if colors is not None:
        entries[320] = (3, colors.ravel().tolist())
    counts = [len(part) for part in packed]
    if tile:
        entries |= {322: (4, [tile]), 323: (4, [tile]), 324: (4, offsets), 325: (4, counts)}
    else:
        entries |= {278: (4, [rows or height]), 273: (4, offsets), 279: (4, counts)}
    return _directory(body, entries | (tags or {}), order, big)


def _mark(order: str) -> bytes:
    return b"II" if order == "<" else b"MM"


def _directory(body: bytes, entries: dict[int, tuple[int, Sequence[int]]], order: str, big: bool) -> bytes:
    """Append the directory to the header and the data, and write its offset into the header."""
    word, room = ("Q", 8) if big else ("I", 4)
    start = len(body)
    table = struct.pack(order + ("Q" if big else "H"), len(entries))
    after = start + len(table) + len(entries) * (20 if big else 12) + room
    tail = b""
    for tag, (type_, values) in sorted(entries.items()):
        data = struct.pack(f"{order}{len(values)}{'H' if type_ == 3 else 'I'}", *values)
        if len(data) > room:
            data, tail = struct.pack(order + word, after + len(tail)), tail + data + bytes(len(data) % 2)
        table += struct.pack(f"{order}HH{word}", tag, type_, len(values)) + data.ljust(room, b"\0")
    place = 8 if big else 4
    return body[:place] + struct.pack(order + word, start) + body[place + room :] + table + bytes(room) + tail


def png(
    samples: Samples,
    bits: int,
    color: int,
    *,
    key: bytes = b"",
    palette: bytes = b"",
    exif: int = 1,
    interlaced: bool = False,
) -> bytes:
    """Return a PNG file of color type 0, 2, 3, 4 or 6; `key` is the tRNS chunk, `exif` an orientation."""
    height, width, _ = samples.shape
    passes = [samples[y::dy, x::dx] for x, y, dx, dy in _ADAM7] if interlaced else [samples]
    rows = [pack_rows(row[None], bits, ">") for part in passes if part.size for row in part]
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, int(interlaced)))]
    chunks += [(b"PLTE", palette)] if palette else []
    chunks += [(b"tRNS", key)] if key else []
    chunks += [(b"eXIf", tiff_exif(exif))] if exif != 1 else []
    chunks += [(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


def tiff_exif(orientation: int) -> bytes:
    """Return EXIF data with only an orientation."""
    return struct.pack(">2sHIHHHIHHI", b"MM", 42, 8, 1, 274, 3, 1, orientation, 0, 0)


def pnm(samples: Samples, largest: int, *, plain: bool = False) -> bytes:
    """Return a PGM or PPM file with this largest value, as text if `plain`."""
    height, width, channels = samples.shape
    number = {(1, False): 5, (3, False): 6, (1, True): 2, (3, True): 3}[channels, plain]
    head = f"P{number}\n{width} {height}\n{largest}\n".encode()
    if plain:
        return head + " ".join(map(str, samples.ravel().tolist())).encode() + b"\n"
    return head + samples.astype(">u2" if largest > 255 else "u1").tobytes()


def bmp(pixels: Samples, masks: Sequence[int], bits: int, *, size: int = 108, upside_down: bool = True) -> bytes:
    """Return a BMP file of 16 or 32 bits per pixel with masks for R, G, B and A (0: none)."""
    height, width, _ = pixels.shape
    words = np.zeros((height, width), dtype=np.uint32)
    for channel, mask in enumerate(masks):
        if mask:
            shift = (mask & -mask).bit_length() - 1
            words |= (pixels[..., channel].astype(np.uint32) << shift) & mask
    rows = words.astype(f"<u{bits // 8}")[:: -1 if upside_down else 1]
    rows = np.pad(rows, ((0, 0), (0, (width * bits // 8 % 4) // (bits // 8))))
    data = rows.tobytes()
    lines = height if upside_down else -height
    header = struct.pack("<IiiHHIIiiII", size, width, lines, 1, bits, 3, len(data), 0, 0, 0, 0)
    header = (header + struct.pack("<IIII", *masks)).ljust(size, b"\0")
    start = 14 + len(header)
    return b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start) + header + data
