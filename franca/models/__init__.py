"""The vision transformer, its heads, and the finished model with its file format."""

from franca.models.model import (
    Features,
    FrancaModel,
    load_model,
    random_model,
    random_twin,
    save_model,
    weights_digest,
)

__all__ = [
    "Features",
    "FrancaModel",
    "load_model",
    "random_model",
    "random_twin",
    "save_model",
    "weights_digest",
]
