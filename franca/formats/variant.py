"""A model with fewer dimensions, another native image size, or position left in its patches."""

import copy

from torch import Tensor

from franca.errors import FrancaError
from franca.models.backbone import Backbone
from franca.models.model import FrancaModel, load_weights

MAX_IMAGE_SIZE = 4096
"""More pixels need more memory than machines have: each patch has a position."""


def variant(
    model: FrancaModel, dim: int | None = None, image_size: int | None = None, keep_position: bool = False
) -> FrancaModel:
    """A model like `model`, but with `dim` leading dimensions and images of `image_size` pixels as its native ones.

    Its positions are those that `model` uses at that size, so that there both give the same features. RASA's planes
    come along unless `keep_position`. Raises FrancaError for a dimension or a size that the model cannot have.
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
    made = FrancaModel(model.architecture, image_size, model.mean, model.std, dim)
    load_weights(made.backbone, _backbone_state(model, image_size), f"positions of {image_size} pixels")
    if not keep_position:
        made.remove_position(model.position_planes)
    made.digest = model.digest
    return made


def _backbone_state(model: FrancaModel, image_size: int) -> dict[str, Tensor]:
    """The backbone's weights, its positions resampled for a square image by the model's own rule."""
    if isinstance(model.backbone, Backbone):
        side = image_size // model.patch_size
        return {**model.backbone.state_dict(), "pos_embed": model.backbone.positions(side, side)}
    backbone = copy.deepcopy(model.backbone)
    backbone.set_input_size(image_size)
    state: dict[str, Tensor] = backbone.state_dict()
    return state
