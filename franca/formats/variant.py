"""Change a model for export: fewer dimensions, another native image size, or no removal of position."""

import copy

from torch import Tensor

from franca.errors import FrancaError
from franca.models.backbone import Backbone
from franca.models.model import FrancaModel, load_weights

MAX_IMAGE_SIZE = 4096
"""Largest image size, in pixels: each patch has a position embedding, so memory grows with the square."""


def variant(
    model: FrancaModel, dim: int | None = None, image_size: int | None = None, keep_position: bool = False
) -> FrancaModel:
    """Return a model with other dimensions or image size, or `model` itself if nothing changes.

    At the new image size both models give the same features: the positions are those that `model` interpolates there.

    Args:
        model: The model.
        dim: Leading dimensions to keep; None for all.
        image_size: Native image size in pixels, a multiple of the patch size; None for that of the model.
        keep_position: Leave out RASA's planes.

    Raises:
        FrancaError: The model cannot have this dimension or image size.
    """
    dim = model.embed_dim if dim is None else dim
    image_size = model.image_size if image_size is None else image_size
    if not 1 <= dim <= model.width:
        raise FrancaError(f"--dim {dim}: the model has dimensions 1 to {model.width}")
    if image_size < 1 or image_size % model.patch_size:
        raise FrancaError(f"--image-size {image_size}: must be a multiple of the patch size {model.patch_size}")
    if image_size > MAX_IMAGE_SIZE:
        raise FrancaError(f"--image-size {image_size}: must be at most {MAX_IMAGE_SIZE} pixels")
    same = (dim, image_size) == (model.embed_dim, model.image_size)
    if same and not (keep_position and len(model.position_planes)):
        return model
    changed = FrancaModel(model.architecture, image_size, model.mean, model.std, dim)
    load_weights(changed.backbone, _backbone_state(model, image_size), f"positions of {image_size} pixels")
    if not keep_position:
        changed.remove_position(model.position_planes)
    changed.digest = model.digest
    return changed


def _backbone_state(model: FrancaModel, image_size: int) -> dict[str, Tensor]:
    """Return the weights of the backbone, with positions resampled for a square image by the model's own method."""
    if isinstance(model.backbone, Backbone):
        side = image_size // model.patch_size
        return {**model.backbone.state_dict(), "pos_embed": model.backbone.positions(side, side)}
    backbone = copy.deepcopy(model.backbone)
    backbone.set_input_size(image_size)
    state: dict[str, Tensor] = backbone.state_dict()
    return state
