"""Nearest neighbors by cosine similarity among features that may be larger than memory."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from franca.feature_files import BLOCK, blocks

QUERIES = 1 << 12
"""Queries that are compared with a block of features at a time: 128 MiB of similarities."""


def nearest(train: Tensor, queries: Tensor, k: int, device: torch.device, block: int = BLOCK) -> tuple[Tensor, Tensor]:
    """Return the k nearest rows of `train` for each query, the most similar first.

    Args:
        train: (N, D) float, of any length.
        queries: (M, D) float, of any length; all of them are on the device at once, with M x (k + block) similarities.
        k: Number of neighbors, at most N.
        device: Where similarities are computed.
        block: Rows of `train` that are compared at a time.

    Returns:
        cosine similarities (M, k) float32 and rows of `train` (M, k) int64, on the device.
    """
    wanted = normalize(queries.to(device, torch.float32), dim=1)
    similarities = wanted.new_empty(len(wanted), 0)
    rows = torch.empty(len(wanted), 0, dtype=torch.int64, device=device)
    start = 0
    for part in blocks(train, device, block):
        values, places = (wanted @ normalize(part, dim=1).T).topk(min(k, len(part)), dim=1)
        both = torch.cat([similarities, values], dim=1)
        similarities, best = both.topk(min(k, both.shape[1]), dim=1)
        rows = torch.cat([rows, places + start], dim=1).gather(1, best)
        start += len(part)
    return similarities, rows
