"""Decode all generated images, compare, and write `benchmarks/DECODING.md`."""

import platform
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL
from numpy.typing import NDArray

from benchmarks.decoding.cases import Case, all_cases, over_white
from benchmarks.tables import table
from franca.data.store.images.decode import decode, refusal, strict_decoding
from franca.files import write_bytes

RESULTS = Path(__file__).parents[1] / "DECODING.md"
RIGHT, WRONG, REFUSED = "right", "wrong", "refused"


def judge(case: Case, found: NDArray[np.uint8] | None) -> str:
    """Compare what a decoder made of a file, or None if it refused it, with what was put in."""
    if found is None:
        return REFUSED
    if case.pixels is None or found.shape != case.pixels.shape:
        return WRONG
    return RIGHT if np.abs(found.astype(int) - case.pixels).max() <= case.tolerance else WRONG


def decode_with_opencv(content: bytes) -> NDArray[np.uint8] | None:
    """Decode to upright RGB; if the file has alpha, which the color mode drops, over white but not turned."""
    data = np.frombuffer(content, dtype=np.uint8)
    try:
        raw: Any = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
        if raw is not None and raw.ndim == 3 and raw.shape[2] == 4 and raw.dtype in (np.uint8, np.uint16):
            samples = (raw >> 8 if raw.dtype == np.uint16 else raw).astype(np.uint8)
            return over_white(samples[..., 2::-1], samples[..., 3:])
        colors: Any = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB)
        return colors
    except cv2.error:
        return None


def rows() -> Iterator[dict[str, Any]]:
    """One row a format and kind; both decoders are compared with the pixels that were put in."""
    counts: dict[tuple[str, str], Counter[str]] = {}
    reasons: dict[tuple[str, str], Counter[str]] = {}
    with strict_decoding():
        for case in all_cases():
            count = counts.setdefault((case.format, case.kind), Counter())
            try:
                found: NDArray[np.uint8] | None = np.asarray(decode(case.content))
            except Exception as error:
                found = None
                reasons.setdefault((case.format, case.kind), Counter())[refusal(error)] += 1
            count["images"] += 1
            count[judge(case, found)] += 1
            count["OpenCV " + judge(case, decode_with_opencv(case.content))] += 1
    for (format, kind), count in counts.items():
        names = ("images", RIGHT, WRONG, REFUSED, f"OpenCV {RIGHT}", f"OpenCV {WRONG}", f"OpenCV {REFUSED}")
        why = "; ".join(reasons.get((format, kind), {}))
        yield {"format": format, "kind": kind} | {name: count[name] for name in names} | {"reason": why}


def main() -> None:
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    lines = list(rows())
    total = {name: sum(line[name] for line in lines) for name in ("images", RIGHT, WRONG, REFUSED)}
    text = f"""# Decoding

Written by `python -m benchmarks.decoding`, with Python {platform.python_version()}, Pillow {PIL.__version__} and
OpenCV {cv2.__version__}. Each file is generated from known samples. *Right* means that every pixel is within one level
of what was put in, or within the loss of the codec if that is lossy. *Wrong* means that it is not, or that a file was
decoded whose samples have no clear meaning.

OpenCV is an independent decoder that is held against the same pixels. It does not turn AVIF, drops tRNS of gray and of
16 bits, does not scale PGM and PPM by their largest value, and reads no HEIC. Files with alpha are read in its
unchanged mode, which turns nothing, drops the alpha of gray, and gives 9 to 15 bits as they are.

{total["images"]:,} images: {total[RIGHT]:,} right, {total[WRONG]:,} wrong, {total[REFUSED]:,} refused with a reason.
{table(lines)}
"""
    write_bytes(RESULTS, text.encode())
    print(text)


if __name__ == "__main__":
    main()
