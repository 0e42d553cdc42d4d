"""Draw the boxes of random crops, and crop one image with Pillow; `batched_crop.py` crops a whole batch."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

ASPECT = (3 / 4, 4 / 3)
"""Smallest and largest aspect ratio of a box."""
TRIES = 10
BOX_DRAWS = 2 * TRIES + 2
"""Uniform numbers for each box: areas and aspect ratios of all tries, and the position along x and y."""
ORIENTATION_DRAWS = 3
"""Uniform numbers for each orientation."""

Floats = NDArray[np.float64]


def random_boxes(uniform: Floats, size: tuple[float, float], scale: Floats) -> Floats:
    """Compute boxes of random crops in an image.

    The area of a box is a uniform share of the image's area, its aspect ratio is log-uniform. As in Inception's crop
    (torchvision's RandomResizedCrop), the first of ten tries that fits into the image is used; if none fits, the
    largest central box within the limits of the aspect ratio.

    Args:
        uniform: Random numbers in 0..1, (22, …): areas of the tries, their aspect ratios, position along x and y.
        size: Width and height of the image, in pixels.
        scale: Smallest and largest area of each box as a share of the image's area, (…, 2).

    Returns:
        Left, upper, right and lower edge in pixels, float64 (…, 4).
    """
    width, height = size
    areas, aspects, place = np.split(uniform, (TRIES, 2 * TRIES))
    area = width * height * (scale[..., 0] + (scale[..., 1] - scale[..., 0]) * areas)
    low, high = np.log(ASPECT)
    aspect = np.exp(low + (high - low) * aspects)
    tries = np.stack([np.sqrt(area * aspect), np.sqrt(area / aspect)], axis=-1)
    fits = np.all(tries <= np.array(size), axis=-1)
    first = np.take_along_axis(tries, fits.argmax(axis=0)[None, ..., None], axis=0)[0]
    found = fits.any(axis=0)[..., None]
    sides = np.where(found, first, np.minimum(size, (height * ASPECT[1], width / ASPECT[0])))
    corners = np.where(found, np.moveaxis(place, 0, -1), 0.5) * (size - sides)
    return np.concatenate([corners, corners + sides], axis=-1)


def orient(boxes: Floats, uniform: Floats, orientation: str) -> tuple[Floats, NDArray[np.bool_]]:
    """Draw the orientation of crops.

    "flip" mirrors half of them along x. "dihedral" also mirrors along y and about the diagonal, so all eight
    combinations of flips and right-angle turns are equally likely.

    Args:
        boxes: Edges in pixels, (…, 4).
        uniform: Random numbers in 0..1, (3, …).
        orientation: "flip" or "dihedral".

    Returns:
        boxes: The boxes (…, 4); a mirrored one has its edges along that axis exchanged.
        transposed: Whether to exchange x and y of each crop, bool (…).
    """
    along_x, along_y, transposed = uniform < 0.5
    if orientation == "flip":
        along_y, transposed = np.zeros_like(along_y), np.zeros_like(transposed)
    mirrored = np.stack([along_x, along_y, along_x, along_y], axis=-1)
    return np.where(mirrored, np.roll(boxes, 2, axis=-1), boxes), transposed


def crop_with_pillow(image: Image.Image, boxes: Floats, transposed: NDArray[np.bool_], side: int) -> NDArray[np.uint8]:
    """Crop and resize an image with Pillow, bicubic with antialiasing.

    Args:
        image: An RGB image.
        boxes: Edges in pixels as `orient` returns them, (crops, 4).
        transposed: Whether to exchange x and y of each crop, bool (crops,).
        side: Side of the crops, in pixels.

    Returns:
        uint8 (crops, 3, side, side).
    """
    crops = np.empty((len(boxes), 3, side, side), dtype=np.uint8)
    for index, (left, upper, right, lower) in enumerate(boxes.tolist()):
        box = (min(left, right), min(upper, lower), max(left, right), max(upper, lower))
        crop = np.asarray(image.resize((side, side), Image.Resampling.BICUBIC, box=box))
        crop = crop[:: 1 if upper < lower else -1, :: 1 if left < right else -1]
        crops[index] = crop.transpose((2, 1, 0) if transposed[index] else (2, 0, 1))
    return crops
