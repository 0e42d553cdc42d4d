"""Shards that stay where they are: tars, local or remote, read by byte range and never unpacked or copied.

Each record's CRC-32 is in the index, so that bytes that changed since they were prepared are never taken for an image.
An ETag would not do: it tells how a file was uploaded, and the same shards copied elsewhere have another.
"""

import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from franca.data.store.files.folders import open_folder, remote_fault
from franca.data.store.index import Index, IndexWriter, Lost, Shard
from franca.errors import FrancaError

PATIENCE = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Seconds before each new try where a storage does not answer; its client has tried a few times by then."""
GAP = 64 << 10
"""Bytes between two records up to which they come in one request."""
BLOCK = 8 << 20
"""Bytes beyond which a request takes no further record."""


class InPlaceWriter:
    """The index of records that lie in shards elsewhere."""

    def __init__(self, folder: Path, place: str, shards: list[Shard]) -> None:
        """`place` is the folder of the shards, a path or a URL."""
        self._index = IndexWriter(folder)
        self._place, self._shards = place, shards

    def add(self, content: bytes, shard: int, offset: int) -> None:
        self._index.append(shard=shard, offset=offset, length=len(content), crc=zlib.crc32(content))

    def close(
        self, keep: NDArray[np.bool_] | None = None, max_lost: float = 0.0, **columns: NDArray[np.int64]
    ) -> dict[str, str]:
        """Write the index as `IndexWriter.write` does."""
        return self._index.write(self._place, self._shards, max_lost, keep, columns)


@dataclass(slots=True)
class _Block:
    """One request: a stretch of a shard, and which of the wanted records lie in it."""

    shard: int
    start: int
    stop: int
    records: list[int]


class InPlaceReader:
    """Reads records by byte range: neighbors in one request, all requests at once."""

    def __init__(self, index: Index) -> None:
        assert index.place is not None, "records of a pack lie beside their index"
        self._index = index
        self._folder = open_folder(index.place)

    def read(self, rows: Sequence[int]) -> list[bytes | Lost]:
        """The bytes of the rows, in the order asked for.

        A record is `Lost` where its shard is gone, cut short or changed. FrancaError where access is denied, or where
        the storage does not answer for the whole of `PATIENCE`.
        """
        shards, offsets, lengths, sums = (self._index.get(key, rows) for key in ("shard", "offset", "length", "crc"))
        found: list[bytes | Lost] = [b""] * len(rows)
        blocks = _blocks(shards, offsets, lengths)
        for wait in (0.0, *PATIENCE):
            time.sleep(wait)
            unanswered: list[tuple[_Block, Exception]] = []
            for block, answer in zip(blocks, self._request(blocks), strict=True):
                if isinstance(answer, Exception):
                    lost = self._lost(block.shard, answer)
                    if lost is None:
                        unanswered.append((block, answer))
                    for i in block.records:
                        found[i] = lost or b""
                    continue
                for i in block.records:
                    content = answer[offsets[i] - block.start :][: lengths[i]]
                    whole = len(content) == lengths[i] and zlib.crc32(content) == sums[i]
                    found[i] = content if whole else self._changed(block.shard)
            if not unanswered:
                return found
            blocks = [block for block, _ in unanswered]
        block, error = unanswered[0]
        raise FrancaError(remote_fault(self._index.where(block.shard), error))

    def _request(self, blocks: list[_Block]) -> list[bytes | Exception]:
        names = [self._index.shards[block.shard].name for block in blocks]
        return self._folder.ranges(names, [block.start for block in blocks], [block.stop for block in blocks])

    def _lost(self, shard: int, error: Exception) -> Lost | None:
        """What has become of a shard that gave an error instead of bytes; None where the error may pass."""
        match error:
            case PermissionError():
                raise FrancaError(remote_fault(self._index.where(shard), error))
            case ConnectionError() | TimeoutError():
                return None
            case OSError():
                # A range beyond the end is an error of its own in each storage: the length tells in all of them.
                return self._measure(shard)
            case _:
                return None

    def _changed(self, shard: int) -> Lost:
        """What has become of a shard whose bytes are not those of the index."""
        return self._measure(shard) or Lost(self._index.where(shard), "its bytes are not those that were prepared")

    def _measure(self, shard: int) -> Lost | None:
        """Whether a shard is gone or has another length; None where it is as long as it was, or nobody can tell."""
        name, size = self._index.shards[shard]
        try:
            now = self._folder.current_size(name)
        except FileNotFoundError:
            return Lost(self._index.where(shard), "it is gone")
        except Exception:
            return None
        if now == size:
            return None
        return Lost(self._index.where(shard), f"it has {now} bytes where the index has {size}")


def _blocks(shards: list[int], offsets: list[int], lengths: list[int]) -> list[_Block]:
    """Requests that cover all records, each record whole in one of them."""
    blocks: list[_Block] = []
    for i in sorted(range(len(shards)), key=lambda i: (shards[i], offsets[i])):
        stop = offsets[i] + lengths[i]
        last = blocks[-1] if blocks else None
        if last and last.shard == shards[i] and offsets[i] <= last.stop + GAP and stop - last.start <= BLOCK:
            last.stop = max(last.stop, stop)
            last.records.append(i)
        else:
            blocks.append(_Block(shards[i], offsets[i], stop, [i]))
    return blocks
