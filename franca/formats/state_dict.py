"""State dicts of checkpoints by other code: find them in a file, and check their tensors."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from franca.errors import FrancaError
from franca.formats.tensor_files import read_checkpoint

CONTAINERS = ("teacher", "model", "state_dict")
"""Keys under which checkpoints keep their state dict, in order of preference."""
PREFIXES = ("module.", "backbone.")
"""Prefixes that DistributedDataParallel and DINOv2's training code put before the names of the backbone."""
HEADS = ("dino_head", "ibot_head")
"""Modules that only training needs."""


def read_state(files: Sequence[Path]) -> dict[str, Tensor]:
    """Return the tensors of the checkpoint `files`, which `read_checkpoint` takes; names as from `find_state`."""
    return find_state(read_checkpoint(files), str(files[0]))


def find_state(checkpoint: Any, origin: str) -> dict[str, Tensor]:
    """Return the state dict in a checkpoint, its names without `PREFIXES`.

    Args:
        checkpoint: Content of a file: the state dict itself, or under one or more of `CONTAINERS`.
        origin: The file, for errors.

    Raises:
        FrancaError: There are no tensors, or two with the same name.
    """
    for _ in CONTAINERS:
        if isinstance(checkpoint, Mapping):
            inner = (checkpoint[key] for key in CONTAINERS if isinstance(checkpoint.get(key), Mapping))
            checkpoint = next(inner, checkpoint)
    state: dict[str, Tensor] = {}
    for key, value in checkpoint.items() if isinstance(checkpoint, Mapping) else ():
        if isinstance(value, Tensor):
            add_tensor(state, strip_prefixes(str(key), PREFIXES), value, origin)
    if not state:
        raise FrancaError(f"{origin}: no dictionary of tensors at the top or under {', '.join(CONTAINERS)}")
    return state


def float32_weights(state: Mapping[str, Tensor], origin: str) -> dict[str, Tensor]:
    """Return a float32 copy of all weights; no two share memory, so that tied weights can change independently.

    Raises:
        FrancaError: Some are integers, as in quantized models.
    """
    if integers := sorted(key for key, value in state.items() if not value.is_floating_point()):
        raise FrancaError(f"{origin}: not floating-point: {shorten(integers)}; quantized weights are not supported")
    return {key: value.to(torch.float32, copy=True) for key, value in state.items()}


def strip_prefixes(key: str, prefixes: Sequence[str]) -> str:
    """Return `key` without any of the prefixes, in whatever order and number they come."""
    while prefix := next((prefix for prefix in prefixes if key.startswith(prefix)), None):
        key = key.removeprefix(prefix)
    return key


def add_tensor(state: dict[str, Tensor], key: str, value: Tensor, origin: str) -> None:
    """Set `state[key]`.

    Raises:
        FrancaError: The key is there already: two names in the file have become the same.
    """
    if key in state:
        raise FrancaError(f"{origin}: two tensors are both {key}; it is not a checkpoint of one model")
    state[key] = value


def shorten(keys: Sequence[str]) -> str:
    """Return the first keys and the number of all, for errors."""
    return ", ".join(keys[:4]) + (f", … ({len(keys)})" if len(keys) > 4 else "")
