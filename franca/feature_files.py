"""Features that may be larger than memory: arrays in temporary files, mapped into memory and read in blocks.

Files have no name, so nothing is left when the evaluation ends, however it ends, and no half-written file can be taken
for a whole one. A cache of features would save the repeated baselines of later evaluations, but somebody would have to
clear it: 20 GB for each model and million images.
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from franca.errors import FrancaError

BLOCK = 1 << 13
"""Rows that are on the device at a time: 96 MiB at 3,072 float32 dimensions."""


def mapped_zeros(*shape: int) -> Tensor:
    """Return a float32 tensor on the CPU that lives in a temporary file, in TMPDIR or else in the current folder.

    Not in `/tmp`, which is memory on many systems. The kernel frees the file with the last tensor that uses it.

    Raises:
        FrancaError: The disk is full, or the folder cannot be written.
    """
    size = 4 * int(np.prod(shape))
    if not size:
        return torch.zeros(shape)
    folder = Path(os.environ.get("TMPDIR", "."))
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            # Now: writing to a mapped file on a full disk would end the process with SIGBUS.
            os.posix_fallocate(file.fileno(), 0, size)
            return torch.from_numpy(np.memmap(file, dtype=np.float32, mode="r+", shape=shape))
    except OSError as error:
        raise FrancaError(
            f"{folder.resolve()}: cannot keep {size / 1e9:.1f} GB of features there ({error.strerror}); free disk"
            " space, or set TMPDIR to a folder on another disk"
        ) from None


def blocks(features: Tensor, device: torch.device, size: int = BLOCK) -> Iterator[Tensor]:
    """Yield the rows of features (N, D) in order, (n, D) float32 on the device each."""
    for part in features.split(size):
        yield part.to(device, torch.float32)


def map_blocks(function: Callable[[Tensor], Tensor], features: Tensor, device: torch.device) -> Tensor:
    """Return a function of features (N, D) as a mapped tensor (N, C); it is called with blocks on the device."""
    found, start = torch.zeros(0, 0), 0
    for part in blocks(features, device):
        result = function(part)
        if not start:
            found = mapped_zeros(len(features), result.shape[1])
        found[start : start + len(part)] = result
        start += len(part)
    return found


def take_rows(features: Tensor, rows: Tensor) -> Tensor:
    """Return some rows, (n,) int64 on the CPU, of mapped features (N, D) as another mapped tensor (n, D)."""
    found = mapped_zeros(len(rows), features.shape[1])
    for part, chosen in zip(found.split(BLOCK), rows.split(BLOCK), strict=True):
        part.copy_(features[chosen])
    return found
