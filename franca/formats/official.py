"""Checkpoints of official Franca and DINOv2: their names and ours, value by value, read and written."""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import ValidationError
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor

from franca.errors import FrancaError
from franca.formats.card import Contents
from franca.formats.tensor_files import read_checkpoint
from franca.models.model import Channels, FrancaModel, load_weights
from franca.params import Backbone, fault_lines

OWNERS = ("teacher", "model", "state_dict")
"""Keys under which checkpoints keep their state, the first that is there being looked into."""
WRAPPERS = ("module.", "backbone.")
HEADS = ("dino_head", "ibot_head")
RASA = "rasa_head."
CHUNKS = 4
HEAD_DIM = 64
OFFICIAL_LAYER_SCALE = 1e-5

_TO_OURS = (
    # In chunks a block keeps its number in the whole network: blocks.CHUNK.BLOCK.…
    (re.compile(r"^blocks\.\d+\.(\d+)\."), r"blocks.\1."),
    # Gate first in both: silu of the first half times the second.
    (re.compile(r"\.mlp\.w12\."), ".mlp.fc1."),
    (re.compile(r"\.mlp\.w3\."), ".mlp.fc2."),
    (re.compile(r"^register_tokens$"), "reg_token"),
)


class Official(NamedTuple):
    """What an official checkpoint holds, in our names."""

    backbone: dict[str, Tensor]
    planes: Tensor | None
    """(rounds, 2, D) of a RASA head beside the backbone"""
    left_out: Counter[str]
    """number of tensors of each training head"""


def state_of(checkpoint: Any, origin: str) -> dict[str, Tensor]:
    """The tensors of a checkpoint, under `teacher`, `model`, `state_dict` or bare, keys without their wrappers.

    Raises FrancaError where there are none, or two of the same name.
    """
    for _ in OWNERS:
        if isinstance(checkpoint, Mapping):
            checkpoint = next(
                (checkpoint[key] for key in OWNERS if isinstance(checkpoint.get(key), Mapping)), checkpoint
            )
    state: dict[str, Tensor] = {}
    for key, value in checkpoint.items() if isinstance(checkpoint, Mapping) else ():
        if isinstance(value, Tensor):
            _put(state, _unwrapped(str(key), WRAPPERS), value, origin)
    if not state:
        raise FrancaError(f"{origin}: no dictionary of tensors, bare or under {', '.join(OWNERS)}")
    return state


def from_official(state: Mapping[str, Tensor], origin: str) -> Official:
    """Sort an official state by owner and give the backbone our names."""
    backbone: dict[str, Tensor] = {}
    rasa: dict[str, Tensor] = {}
    left_out: Counter[str] = Counter()
    for key, value in state.items():
        owner = key.partition(".")[0]
        if owner in HEADS:
            left_out[owner] += 1
        elif key.startswith(RASA):
            rasa[key] = value
        else:
            _put(backbone, _ours(key), value, origin)
    return Official(backbone, planes_of(rasa, origin) if rasa else None, left_out)


def planes_of(state: Mapping[str, Tensor], origin: str) -> Tensor:
    """Planes (rounds, 2, D) of an official RASA head, in the order in which they are taken out.

    `pre_pos_layers.0.weight` onwards come first and `pos_pred.weight` last; each is (2, D).
    """
    layers: dict[str, Tensor] = {}
    for key, value in state.items():
        _put(layers, _unwrapped(key, (*WRAPPERS, RASA)), value, origin)
    wanted = [f"pre_pos_layers.{index}.weight" for index in range(len(layers) - 1)] + ["pos_pred.weight"]
    if set(layers) != set(wanted):
        raise FrancaError(
            f"{origin}: no RASA head: {len(layers)} tensors should be {_shown(wanted)}, not {_shown(sorted(layers))}"
        )
    shapes = {tuple(layer.shape) for layer in layers.values()}
    if len(shapes) > 1 or any(len(shape) != 2 or shape[0] != 2 for shape in shapes):
        raise FrancaError(f"{origin}: no RASA head: its layers are {sorted(shapes)}, not all (2, D)")
    planes = torch.stack([layers[key].float() for key in wanted])
    if not planes.isfinite().all():
        raise FrancaError(f"{origin}: its RASA head has values that are not finite; download it again")
    return planes


def architecture_of(backbone: Mapping[str, Tensor], origin: str, num_heads: int | None) -> tuple[Backbone, int]:
    """Architecture and image size (pixels), as the shapes of a backbone in our names show them.

    The number of heads leaves no trace in the weights: one for each 64 dimensions where it is not given. DINOv2
    resamples positions with antialias where it has registers, and as Franca does where it has none.
    """
    embed_dim, channels, patch_size, _ = _shape(backbone, "patch_embed.proj.weight", 4, origin)
    _, places, _ = _shape(backbone, "pos_embed", 3, origin)
    wide, _ = _shape(backbone, "blocks.0.mlp.fc1.weight", 2, origin)
    _, narrow = _shape(backbone, "blocks.0.mlp.fc2.weight", 2, origin)
    registers = _shape(backbone, "reg_token", 3, origin)[1] if "reg_token" in backbone else 0
    side = math.isqrt(max(places - 1, 0))
    if channels != 3 or side == 0 or side * side != places - 1:
        raise FrancaError(
            f"{origin}: {channels} channels and {places} positions; only models of color images with a class token and"
            " a square grid are read"
        )
    if num_heads is None and embed_dim % HEAD_DIM:
        raise FrancaError(
            f"{origin}: {embed_dim} dimensions are no heads of {HEAD_DIM}; name their number, --num-heads"
        )
    found = {int(key.split(".")[1]) for key in backbone if re.match(r"blocks\.\d+\.", key)}
    if found != set(range(len(found))):
        raise FrancaError(f"{origin}: its blocks are not 0 to {len(found) - 1}, one after another")
    values = {
        "patch_size": patch_size,
        "embed_dim": embed_dim,
        "depth": len(found),
        "num_heads": embed_dim // HEAD_DIM if num_heads is None else num_heads,
        "ffn": "swiglu" if wide == 2 * narrow else "mlp",
        "registers": registers,
        "layer_scale": OFFICIAL_LAYER_SCALE if any(key.endswith(".gamma") for key in backbone) else 1.0,
        "position_resampling": "antialias" if registers else "offset",
    }
    try:
        return Backbone.model_validate(values), side * patch_size
    except ValidationError as error:
        raise FrancaError(f"{origin}: {'; '.join(fault_lines(error, Backbone))}") from None


def float_weights(state: Mapping[str, Tensor], origin: str) -> dict[str, Tensor]:
    """A copy of all weights in float32, none sharing memory; FrancaError for integers, as quantized models have."""
    if odd := sorted(key for key, value in state.items() if not value.is_floating_point()):
        raise FrancaError(f"{origin}: no floating-point numbers in {_shown(odd)}; quantized weights are not read")
    return {key: value.to(torch.float32, copy=True) for key, value in state.items()}


def build_model(
    backbone: Mapping[str, Tensor], origin: str, num_heads: int | None, mean: Channels, std: Channels
) -> FrancaModel:
    """Our model, in float32, of an official backbone in our names; LayerScale of 1 where the file has none.

    Raises FrancaError for keys that are missing, unexpected or of another shape.
    """
    architecture, image_size = architecture_of(backbone, origin, num_heads)
    state = float_weights(backbone, origin)
    if not any(key.endswith(".gamma") for key in state):
        gammas = (f"blocks.{block}.{name}.gamma" for block in range(architecture.depth) for name in ("ls1", "ls2"))
        state |= {gamma: torch.ones(architecture.embed_dim) for gamma in gammas}
    # On the meta device nothing is allocated for an architecture that the weights turn out not to fit.
    with torch.device("meta"):
        model = FrancaModel(architecture, image_size, mean, std)
    load_weights(model.backbone, state, origin, assign=True)
    model.remove_position(torch.zeros(0, 2, architecture.embed_dim))
    return model


def read_model(
    files: Sequence[Path], num_heads: int | None = None, mean: Channels | None = None, std: Channels | None = None
) -> tuple[FrancaModel, Counter[str]]:
    """The model of an official checkpoint, planes of its RASA head and all, and the tensors of each head left out.

    `files` are the checkpoint or the parts of its tar. Channels are ImageNet's unless given.
    """
    origin = str(files[0])
    found = from_official(state_of(read_checkpoint(files), origin), origin)
    mean, std = mean or IMAGENET_DEFAULT_MEAN, std or IMAGENET_DEFAULT_STD
    model = build_model(found.backbone, origin, num_heads, mean, std)
    if found.planes is not None:
        remove_position(model, found.planes, origin)
    return model, found.left_out


def remove_position(model: FrancaModel, planes: Tensor, origin: str) -> None:
    """Have the planes (rounds, 2, D) of `origin` taken out; a FrancaError where the model has another width."""
    if planes.shape[-1] != model.width:
        raise FrancaError(f"{origin}: a RASA head for {planes.shape[-1]} dimensions; the model has {model.width}")
    model.remove_position(planes)


def to_official(model: FrancaModel) -> dict[str, Tensor]:
    """The backbone's weights by the names of the official models, blocks flat: what DINOv2 releases.

    How positions are resampled is no part of it. Raises FrancaError for a model of timm.
    """
    if not isinstance(model.architecture, Backbone):
        raise FrancaError(f"{model.architecture}: a model of timm has no official form")
    official = {}
    for key, value in model.backbone.state_dict().items():
        if model.architecture.ffn == "swiglu":
            key = key.replace(".mlp.fc1.", ".mlp.w12.").replace(".mlp.fc2.", ".mlp.w3.")
        official["register_tokens" if key == "reg_token" else key] = value
    return official


def to_official_release(model: FrancaModel) -> dict[str, dict[str, Tensor]]:
    """What `torch.save` writes for Franca's own loader: under `teacher`, with `backbone.`, blocks in 4 chunks."""
    size = max(len(model.backbone.blocks) // CHUNKS, 1)

    def chunked(match: re.Match[str]) -> str:
        return f"blocks.{int(match[1]) // size}.{match[1]}."

    state = to_official(model).items()
    return {"teacher": {"backbone." + re.sub(r"^blocks\.(\d+)\.", chunked, key): value for key, value in state}}


def rasa_to_official(model: FrancaModel) -> dict[str, Tensor]:
    """The planes as an official RASA head: the last one is `pos_pred`. Raises FrancaError where there are none."""
    planes = list(model.position_planes)
    if not planes:
        raise FrancaError("the model has no planes of RASA; run `franca disentangle` first")
    *earlier, last = planes
    return {f"pre_pos_layers.{index}.weight": plane for index, plane in enumerate(earlier)} | {"pos_pred.weight": last}


def _unwrapped(key: str, wrappers: Sequence[str]) -> str:
    """`key` without any of the prefixes, in whatever order they come."""
    while wrapper := next((wrapper for wrapper in wrappers if key.startswith(wrapper)), None):
        key = key.removeprefix(wrapper)
    return key


def _ours(key: str) -> str:
    for pattern, replacement in _TO_OURS:
        key = pattern.sub(replacement, key)
    return key


def _put(state: dict[str, Tensor], key: str, value: Tensor, origin: str) -> None:
    if key in state:
        raise FrancaError(f"{origin}: two tensors are both {key}; it is no checkpoint of one model")
    state[key] = value


def _shape(state: Mapping[str, Tensor], key: str, dimensions: int, origin: str) -> tuple[int, ...]:
    if key not in state:
        raise FrancaError(
            f"{origin}: no checkpoint of Franca's or DINOv2's form, {key} is missing among {_shown(sorted(state))};"
            " for one of timm's models give its name, --timm"
        )
    if state[key].ndim != dimensions or 0 in state[key].shape:
        raise FrancaError(f"{origin}: {key} is {tuple(state[key].shape)}, which no vision transformer has")
    return tuple(state[key].shape)


def _shown(keys: Sequence[str]) -> str:
    return ", ".join(keys[:4]) + (f", … ({len(keys)})" if len(keys) > 4 else "")


USAGE = """
import torch

# What the official code takes as local_state_dict; Franca makes a model folder of it again by
# franca import-weights FOLDER/model.pth{option} --num-heads {heads} --mean {mean} --std {std} -o NEW
backbone = torch.load("FOLDER/model.pth", weights_only=True)["teacher"]
{rasa}"""
RASA_USAGE = """# What it takes as RASA_local_state_dict, with use_rasa_head=True.
rasa = torch.load("FOLDER/rasa.pth", weights_only=True)
"""


def write(model: FrancaModel, folder: Path) -> Contents:
    """Write `model.pth` and, where the model has planes, `rasa.pth`; both load with `weights_only=True`.

    Raises FrancaError for a model of timm and for a truncation: the official code has neither.
    """
    about = model.architecture
    if not isinstance(about, Backbone):
        raise FrancaError(f"official: holds Franca's own architecture, not {about}; --format timm holds it")
    if model.embed_dim < model.width:
        raise FrancaError(
            f"official: holds all {model.width} dimensions, not {model.embed_dim}; export with --dim {model.width} and"
            " slice the features, or choose another format"
        )
    torch.save(to_official_release(model), folder / "model.pth")
    planes = len(model.position_planes) > 0
    if planes:
        torch.save(rasa_to_official(model), folder / "rasa.pth")
    usage = USAGE.format(
        option=" --rasa FOLDER/rasa.pth" if planes else "",
        heads=about.num_heads,
        mean=" ".join(map(str, model.mean)),
        std=" ".join(map(str, model.std)),
        rasa=RASA_USAGE if planes else "",
    )
    return Contents("pytorch", usage, _differences(model, about))


def _differences(model: FrancaModel, about: Backbone) -> tuple[str, ...]:
    lacks = ["the number of heads", "mean and standard deviation of the images", "the kind of resampling of positions"]
    if about.position_resampling == "antialias" and not about.registers:
        lacks[-1] += ": antialiased, which readers take to be that of models with registers"
    if about.position_resampling == "offset" and about.registers:
        lacks[-1] += ": not antialiased, which readers take to be that of models without registers"
    return tuple(lacks)
