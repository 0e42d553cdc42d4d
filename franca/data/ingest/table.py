"""One pass over a source: every image is decoded, measured and kept, or refused with a reason."""

import hashlib
from array import array
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from franca.data.ingest.dense import DenseSource
from franca.data.ingest.sources import Sample, Source, list_ignored
from franca.data.ingest.splits import NONE
from franca.data.store.images.decode import ImageFacts, examine, refusal, strict_decoding
from franca.data.store.index import SPLITS
from franca.errors import FrancaError, Stopped

_BATCH = 256


@dataclass
class Refused:
    path: str
    reason: str


@dataclass
class Table:
    """What is known of each accepted image, a row an image, in the order of the source."""

    names: list[str] = field(default_factory=list)
    class_names: list[str | None] = field(default_factory=list)
    scenes: list[str | None] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    source_digest: str = ""
    _given: "array[int]" = field(default_factory=lambda: array("b"))
    _keys: "array[int]" = field(default_factory=lambda: array("Q"))
    _hashes: "array[int]" = field(default_factory=lambda: array("Q"))
    _sizes: "array[int]" = field(default_factory=lambda: array("q"))
    _sums: "array[int]" = field(default_factory=lambda: array("q"))

    def add(self, sample: Sample, digest: bytes, facts: ImageFacts) -> None:
        self.names.append(sample.name)
        self.class_names.append(sample.class_name)
        self.scenes.append(sample.scene)
        self._given.append(SPLITS.index(sample.split) if sample.split else NONE)
        self._keys.append(int.from_bytes(digest[:8], "big"))
        self._hashes.append(facts.perceptual_hash)
        self._sizes.extend((facts.height, facts.width, len(sample.content)))
        self._sums.extend(facts.sums.ravel().tolist())

    def __len__(self) -> int:
        return len(self.names)

    @property
    def given(self) -> NDArray[np.int64]:
        """Split that the source dictates, or NONE; shape (N,)."""
        return np.array(self._given, dtype=np.int64)

    @property
    def keys(self) -> NDArray[np.uint64]:
        """First 64 bits of the content's SHA-256, shape (N,)."""
        return np.array(self._keys, dtype=np.uint64)

    @property
    def hashes(self) -> NDArray[np.uint64]:
        """Perceptual hashes, shape (N,)."""
        return np.array(self._hashes, dtype=np.uint64)

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Height and width in pixels and length in bytes, shape (N, 3)."""
        return np.array(self._sizes, dtype=np.int64).reshape(-1, 3)

    @property
    def sums(self) -> NDArray[np.int64]:
        """Sum and sum of squares of each channel's bytes, shape (N, 2, 3)."""
        return np.array(self._sums, dtype=np.int64).reshape(-1, 2, 3)


def ingest(
    source: Source | DenseSource, keep: Callable[[Sample], None], threads: int, stop: Callable[[], bool]
) -> Table:
    """Read the whole source and `keep` what is accepted; Stopped when `stop` turns true."""
    table = Table()
    digest = hashlib.sha256()

    def check(sample: Sample) -> ImageFacts | str:
        return _check(sample, source)

    samples = iter(source)
    bar = tqdm(total=source.total_bytes, unit="B", unit_scale=True, desc=source.title, disable=None)
    with bar, strict_decoding(), ThreadPoolExecutor(threads) as pool:
        while batch := list(islice(samples, _BATCH)):
            for sample, result in zip(batch, pool.map(check, batch), strict=True):
                content_digest = hashlib.sha256(sample.content).digest()
                digest.update(content_digest + hashlib.sha256(sample.mask or b"").digest())
                digest.update(f"{sample.name}\0{sample.class_name}\n".encode())
                if isinstance(result, str):
                    table.refused.append(Refused(sample.name, result))
                    continue
                table.add(sample, content_digest, result)
                keep(sample)
            bar.update(source.bytes_read - bar.n)
            if stop():
                raise Stopped("stopped while preparing; the previous store is unchanged; run the stage again")
    if not table.names and not table.refused:
        found = list_ignored(source.ignored, 3) or "nothing"
        raise FrancaError(f"{source.title}: no image in its tars ({found} found); tars inside tars are not opened")
    table.source_digest = digest.hexdigest()
    return table


def _check(sample: Sample, source: Source | DenseSource) -> ImageFacts | str:
    """The facts of an image, or the reason why it is refused."""
    if sample.problem:
        return sample.problem
    try:
        facts = examine(sample.content)
    except MemoryError:
        raise
    except Exception as error:  # bad bytes make Pillow raise nearly anything
        return refusal(error)
    if isinstance(source, DenseSource) and sample.mask is not None:
        return source.check_mask(sample.mask, facts.height, facts.width) or facts
    return facts
