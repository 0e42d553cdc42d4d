"""Tensor names of official Franca and DINOv2 checkpoints: convert them to ours and back, value by value."""

import re
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from franca.errors import FrancaError
from franca.formats.state_dict import HEADS, PREFIXES, add_tensor, shorten, strip_prefixes
from franca.models.model import FrancaModel
from franca.params import Backbone

RASA = "rasa_head."
CHUNKS = 4
"""Groups of blocks that the official training code wraps by FSDP; their numbers are part of the names."""

_TO_OURS = (
    # With chunks a name has the chunk and the block's number in the whole network: blocks.CHUNK.BLOCK.…
    (re.compile(r"^blocks\.\d+\.(\d+)\."), r"blocks.\1."),
    # SwiGLU: both have the gate in the first half of the rows, silu(x1) * x2.
    (re.compile(r"\.mlp\.w12\."), ".mlp.fc1."),
    (re.compile(r"\.mlp\.w3\."), ".mlp.fc2."),
    (re.compile(r"^register_tokens$"), "reg_token"),
)


class OfficialWeights(NamedTuple):
    """The content of an official checkpoint.

    Attributes:
        backbone: Tensors of the backbone by our names.
        planes: (rounds, 2, D) float32, the position planes of a RASA head, or None.
        left_out: Number of tensors of each training head.
    """

    backbone: dict[str, Tensor]
    planes: Tensor | None
    left_out: Counter[str]


def from_official(state: Mapping[str, Tensor], origin: str) -> OfficialWeights:
    """Split the state dict of an official checkpoint into backbone, RASA head and training heads.

    Args:
        state: Tensors by official names, without prefixes (`find_state`).
        origin: The file, for errors.

    Raises:
        FrancaError: Two names become the same, or the RASA head is incomplete.
    """
    backbone: dict[str, Tensor] = {}
    rasa: dict[str, Tensor] = {}
    left_out: Counter[str] = Counter()
    for key, value in state.items():
        module = key.partition(".")[0]
        if module in HEADS:
            left_out[module] += 1
        elif key.startswith(RASA):
            rasa[key] = value
        else:
            add_tensor(backbone, _to_ours(key), value, origin)
    return OfficialWeights(backbone, rasa_planes(rasa, origin) if rasa else None, left_out)


def rasa_planes(state: Mapping[str, Tensor], origin: str) -> Tensor:
    """Return the planes (rounds, 2, D) float32 of an official RASA head, in the order in which they are removed.

    `pre_pos_layers.0.weight` onwards come first and `pos_pred.weight` last; each is (2, D).

    Raises:
        FrancaError: Layers are missing, unexpected, of other shapes or not finite.
    """
    layers: dict[str, Tensor] = {}
    for key, value in state.items():
        add_tensor(layers, strip_prefixes(key, (*PREFIXES, RASA)), value, origin)
    expected = [f"pre_pos_layers.{index}.weight" for index in range(len(layers) - 1)] + ["pos_pred.weight"]
    if set(layers) != set(expected):
        raise FrancaError(
            f"{origin}: not a RASA head: {len(layers)} tensors should be {shorten(expected)},"
            f" not {shorten(sorted(layers))}"
        )
    shapes = {tuple(layer.shape) for layer in layers.values()}
    if len(shapes) > 1 or any(len(shape) != 2 or shape[0] != 2 for shape in shapes):
        raise FrancaError(f"{origin}: not a RASA head: its layers are {sorted(shapes)}, not all (2, D)")
    planes = torch.stack([layers[key].float() for key in expected])
    if not planes.isfinite().all():
        raise FrancaError(f"{origin}: its RASA head has values that are not finite; download it again")
    return planes


def to_official(model: FrancaModel) -> dict[str, Tensor]:
    """Return the weights of the backbone by official names, blocks without chunks, as DINOv2 publishes them.

    The kind of position resampling is not part of the weights.

    Raises:
        FrancaError: The model has an architecture of timm.
    """
    if not isinstance(model.architecture, Backbone):
        raise FrancaError(f"{model.architecture}: a model of timm has no official form; use another format")
    official = {}
    for key, value in model.backbone.state_dict().items():
        if model.architecture.ffn == "swiglu":
            key = key.replace(".mlp.fc1.", ".mlp.w12.").replace(".mlp.fc2.", ".mlp.w3.")
        official["register_tokens" if key == "reg_token" else key] = value
    return official


def to_official_release(model: FrancaModel) -> dict[str, dict[str, Tensor]]:
    """Return the checkpoint that Franca's official loader takes: under `teacher`, prefix `backbone.`, in chunks."""
    size = max(len(model.backbone.blocks) // CHUNKS, 1)

    def with_chunk(match: re.Match[str]) -> str:
        return f"blocks.{int(match[1]) // size}.{match[1]}."

    state = to_official(model).items()
    return {"teacher": {"backbone." + re.sub(r"^blocks\.(\d+)\.", with_chunk, key): value for key, value in state}}


def rasa_to_official(model: FrancaModel) -> dict[str, Tensor]:
    """Return the model's planes as an official RASA head; the last one is `pos_pred`.

    Raises:
        FrancaError: The model has no planes.
    """
    planes = list(model.position_planes)
    if not planes:
        raise FrancaError("the model has no planes of RASA; run `franca disentangle` first")
    *earlier, last = planes
    return {f"pre_pos_layers.{index}.weight": plane for index, plane in enumerate(earlier)} | {"pos_pred.weight": last}


def _to_ours(key: str) -> str:
    for pattern, replacement in _TO_OURS:
        key = pattern.sub(replacement, key)
    return key
