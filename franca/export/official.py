"""Checkpoints of the official Franca code: the backbone in `model.pth`, the planes of RASA in `rasa.pth`."""

from pathlib import Path

import torch

from franca.errors import FrancaError
from franca.export.card import Contents
from franca.models.model import FrancaModel
from franca.params import Backbone
from franca.weights.official import rasa_to_official, to_official_release

USAGE = """
import torch

# What the official code takes as local_state_dict; Franca makes a model folder of it again by
# franca import-weights FOLDER/model.pth{option} --num-heads {heads} --mean {mean} --std {std} -o NEW
backbone = torch.load("FOLDER/model.pth", weights_only=True)["teacher"]
{rasa}"""
RASA = """# What it takes as RASA_local_state_dict, with use_rasa_head=True.
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
        rasa=RASA if planes else "",
    )
    return Contents("pytorch", usage, _differences(model, about))


def _differences(model: FrancaModel, about: Backbone) -> tuple[str, ...]:
    lacks = ["the number of heads", "mean and standard deviation of the images", "the kind of resampling of positions"]
    if about.position_resampling == "antialias" and not about.registers:
        lacks[-1] += ": antialiased, which readers take to be that of models with registers"
    if about.position_resampling == "offset" and about.registers:
        lacks[-1] += ": not antialiased, which readers take to be that of models without registers"
    return tuple(lacks)
