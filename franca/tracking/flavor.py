"""How MLflow loads a Franca model: the folder of safetensors and JSON in, an object with `predict` out."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from franca.errors import FrancaError
from franca.models import FrancaModel, load_model

BATCH = 64


class Embedder:
    """Maps images to embeddings, on the GPU where there is one."""

    def __init__(self, model: FrancaModel) -> None:
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = model.to(self._device)

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embeddings, float32 (N, D), of RGB images, uint8 (N, H, W, 3), H and W the side the model was trained at.

        Raises FrancaError for anything else, and for a batch that is black throughout, before any work is done.
        """
        side = self.model.image_size
        shape, dtype = getattr(images, "shape", None), getattr(images, "dtype", None)
        if shape is None or len(shape) != 4 or shape[1:] != (side, side, 3) or dtype != np.uint8:
            given = f"{dtype} {shape}" if shape is not None else type(images).__name__
            raise FrancaError(
                f"images must be a uint8 array of shape (N, {side}, {side}, 3), not {given};"
                " convert values in 0..1 by (images * 255).round().astype(numpy.uint8)"
            )
        # MLflow's server casts JSON numbers to uint8 before this call, which leaves 0 and 1 of an image in 0..1.
        if images.size and images.max() <= 1:
            raise FrancaError("images: all values are 0 or 1, as those in 0..1 are once cast to uint8; send 0..255")
        pixels = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)
        with torch.inference_mode():
            parts = [self.model(part.to(self._device)).pooled.cpu() for part in pixels.split(BATCH)]
        return torch.cat(parts).numpy() if len(images) else np.zeros((0, self.model.embed_dim), np.float32)


def _load_pyfunc(path: str) -> Embedder:
    return Embedder(load_model(Path(path)))
