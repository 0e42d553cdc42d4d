"""The most unusual new images and the training images nearest to them, as pictures."""

import numpy as np
from PIL import Image

from franca.data.store.files.names import printable
from franca.data.store.prepared import ImageSet
from franca.data.store.transform import resize_and_crop
from franca.drift.images import FolderVectors, open_images
from franca.drift.measures import Novelty, Vectors
from franca.evaluation.features import evenly_spaced
from franca.evaluation.report_page.examples import SIDE, Query, Thumbnail, jpeg_uri
from franca.inference.image_folder import ImageFolder

NEAREST = 5
UNUSUAL = 12
TYPICAL = 6


def unusual(novelty: Novelty) -> list[int]:
    """Return the new images that are farthest from the training images, the farthest first."""
    return [int(row) for row in np.argsort(-novelty.distances, kind="stable")[:UNUSUAL]]


def typical(count: int) -> list[int]:
    """Return evenly spaced new images."""
    return [int(row) for row in evenly_spaced(count, TYPICAL)]


def draw_queries(
    rows: list[int],
    found: FolderVectors,
    folder: ImageFolder,
    reference: Vectors,
    training: ImageSet,
    training_rows: list[int],
    novelty: Novelty,
) -> tuple[Query, ...]:
    """Return new images with the nearest training images.

    Args:
        rows: Rows of the new images.
        found: Names and vectors of the new images.
        folder: The new images.
        reference: Vectors of the training images that were compared.
        training: All training images.
        training_rows: Row in `training` of each row of `reference`.
        novelty: Distances of the new images.
    """
    pictures = open_images(folder, (found.names[row] for row in rows))
    queries = []
    for row in rows:
        name = found.names[row]
        if name not in pictures:  # deleted meanwhile
            continue
        near = np.argsort(-(reference @ found.vectors[row]), kind="stable")[:NEAREST]
        neighbors = tuple(
            _thumbnail(training[training_rows[other]], _label(training, training_rows[other]), similarity)
            for other, similarity in zip(near, reference[near] @ found.vectors[row], strict=True)
        )
        image = Thumbnail(_uri(pictures[name]), printable(name), None, f"distance {novelty.distances[row]:.2f}")
        queries.append(Query(image, None, neighbors))
    return tuple(queries)


def _thumbnail(image: Image.Image, label: str | None, similarity: float) -> Thumbnail:
    return Thumbnail(_uri(image), label, None, f"{similarity:.2f}")


def _label(images: ImageSet, row: int) -> str | None:
    label = int(images.labels[row])
    return printable(images.classes[label]) if label >= 0 else None


def _uri(image: Image.Image) -> str:
    return jpeg_uri(resize_and_crop(image, min(SIDE, *image.size)))
