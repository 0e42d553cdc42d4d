"""Embeddings of training images and of a folder's images, by one model and with the same preprocessing."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from franca.data.store.images.decode import strict_decoding
from franca.data.store.prepared import ImageSet
from franca.data.store.transform import resize_and_crop
from franca.drift.measures import Vectors
from franca.errors import FrancaError
from franca.evaluation.features import evenly_spaced, to_tensor
from franca.inference.image_folder import Found, ImageFolder, load_squares
from franca.models import FrancaModel

BATCH = 64


class FolderVectors(NamedTuple):
    """Embeddings of a folder's images.

    Attributes:
        names: Names of the images.
        vectors: (M, D) rows of unit length.
        refused: Name and reason of each image that cannot be read.
        total: Number of images in the folder.
    """

    names: list[str]
    vectors: Vectors
    refused: list[tuple[str, str]]
    total: int


@torch.inference_mode()
def embed_store(model: FrancaModel, images: ImageSet, limit: int) -> tuple[Vectors, list[int]]:
    """Return embeddings (N, D) of unit length and rows of evenly spaced images of a prepared store.

    Args:
        model: The model.
        images: The images.
        limit: Number of images, at most.
    """
    rows = evenly_spaced(len(images), limit).tolist()
    vectors = []
    for start in range(0, len(rows), BATCH):
        batch = images.fetch(rows[start : start + BATCH])
        vectors.append(_embed(model, [to_tensor(resize_and_crop(image, model.image_size)) for image in batch]))
    return np.concatenate(vectors), rows


@torch.inference_mode()
def embed_folder(model: FrancaModel, folder: ImageFolder, limit: int, threads: int) -> FolderVectors:
    """Return embeddings of evenly spaced images of a folder.

    Args:
        model: The model.
        folder: The images.
        limit: Number of images, at most.
        threads: Threads that decode.

    Raises:
        FrancaError: None of the images can be read.
    """
    total = sum(1 for _ in folder)
    chosen = _select(folder, set(evenly_spaced(total, limit).tolist()))
    names: list[str] = []
    refused: list[tuple[str, str]] = []
    vectors: list[Vectors] = []
    batch: list[Tensor] = []
    with strict_decoding():
        for name, pixels in load_squares(chosen, model.image_size, threads, 2 * BATCH):
            if isinstance(pixels, str):
                refused.append((name, pixels))
                continue
            names.append(name)
            batch.append(torch.from_numpy(pixels.copy()).permute(2, 0, 1))
            if len(batch) == BATCH:
                vectors.append(_embed(model, batch))
                batch = []
    if batch:
        vectors.append(_embed(model, batch))
    if not vectors:
        name, reason = refused[0]
        raise FrancaError(f"{folder.folder}: none of {len(refused)} images can be read; for example {name}: {reason}")
    return FolderVectors(names, np.concatenate(vectors), refused, total)


def open_images(folder: ImageFolder, names: Iterable[str]) -> dict[str, Image.Image]:
    """Return images of a folder by name."""
    wanted, found = set(names), {}
    with strict_decoding():
        for entry in folder:
            if entry.name in wanted:
                image = entry.open()
                if isinstance(image, Image.Image):
                    found[entry.name] = image
    return found


def _select(folder: ImageFolder, rows: set[int]) -> Iterator[Found]:
    return (found for row, found in enumerate(folder) if row in rows)


def _embed(model: FrancaModel, batch: list[Tensor]) -> Vectors:
    device = next(model.parameters()).device
    pooled = model(torch.stack(batch).to(device)).pooled.float()
    return np.asarray(normalize(pooled, dim=1).cpu().numpy())
