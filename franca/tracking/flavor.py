"""The MLflow flavor: load a Franca model as a python_function model.

Registered models store the name of this module (`loader_module: franca.tracking.flavor`): do not rename it.
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from franca.errors import FrancaError
from franca.models import FrancaModel, load_model
from franca.tracking.registry import DIGEST, verify_files

BATCH = 64
"""Images per forward pass."""


class Embedder:
    """A python_function model that maps images to embeddings, on a GPU if there is one."""

    def __init__(self, model: FrancaModel) -> None:
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = model.to(self._device)

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return embeddings (N, D) float32.

        Args:
            images: (N, H, W, 3) uint8, RGB. H and W are the model's image size.

        Raises:
            FrancaError: Shape or dtype is another one, or all values are 0 or 1. Nothing is computed then.
        """
        side = self.model.image_size
        shape, dtype = getattr(images, "shape", None), getattr(images, "dtype", None)
        if shape is None or len(shape) != 4 or shape[1:] != (side, side, 3) or dtype != np.uint8:
            given = f"{dtype} {shape}" if shape is not None else type(images).__name__
            raise FrancaError(
                f"images must be a uint8 array of shape (N, {side}, {side}, 3), not {given};"
                " convert values in 0..1 by (images * 255).round().astype(numpy.uint8)"
            )
        # MLflow's server casts JSON numbers to uint8 before this call: of an image in 0..1 only zeros and ones remain.
        if images.size and images.max() <= 1:
            raise FrancaError(
                "images: all values are 0 or 1, as if values in 0..1 had been cast to uint8; send values in 0..255"
            )
        pixels = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)
        with torch.inference_mode():
            parts = [self.model(part.to(self._device)).pooled.cpu() for part in pixels.split(BATCH)]
        return torch.cat(parts).numpy() if len(images) else np.zeros((0, self.model.embed_dim), np.float32)


class _ServedEmbedder(Embedder):
    """An embedder whose errors MLflow's server reports; it hides the message of every exception but its own."""

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return embeddings, as `Embedder.predict` does, and raise MlflowException for invalid images."""
        from mlflow.exceptions import MlflowException

        try:
            return super().predict(images)
        except FrancaError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from None


def _load_pyfunc(path: str) -> Embedder:
    """Load the model folder at `path`; MLflow calls this function by its name.

    MLflow has read `MLmodel` before, and has run the code that it names. This function can only check that the weights
    are those that `MLmodel` was written for.
    """
    from mlflow.models import Model

    folder = Path(path)
    root = next((parent for parent in folder.parents if (parent / "MLmodel").is_file()), None)
    about = (Model.load(str(root)).metadata or {}) if root else {}
    verify_files(folder, {DIGEST: about.get("digest")}, str(folder))
    return _ServedEmbedder(load_model(folder))
