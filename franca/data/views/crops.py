"""Where random crops lie in an image, and cutting them out of one image by Pillow; `resample.py` cuts out of many."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

ASPECT = (3 / 4, 4 / 3)
TRIES = 10
BOX_DRAWS = 2 * TRIES + 2
ORIENTATION_DRAWS = 3

Floats = NDArray[np.float64]


def random_boxes(uniform: Floats, size: tuple[float, float], scale: Floats) -> Floats:
    """Boxes (…, 4), left, upper, right, lower in pixels, in an image of `size` (width, height).

    A box's area is a share of the image's, uniform between the two columns of `scale` (…, 2), its aspect ratio is
    log-uniform. Of ten tries the first that fits is taken, as in Inception's crop; else the largest central box within
    the aspect limits. `uniform` (22, …) holds the numbers in 0..1 that decide: areas of the tries, their aspects, and
    place along x and y.
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
    """Boxes (…, 4) with their ends exchanged along the axes on which they are mirrored, and crops (…) to transpose.

    "flip" mirrors along x half of the time; "dihedral" also along y and about the diagonal, so that all eight flips
    and right-angle turns are equally likely. `uniform` (3, …) holds the numbers in 0..1 that decide.
    """
    along_x, along_y, transposed = uniform < 0.5
    if orientation == "flip":
        along_y, transposed = np.zeros_like(along_y), np.zeros_like(transposed)
    mirrored = np.stack([along_x, along_y, along_x, along_y], axis=-1)
    return np.where(mirrored, np.roll(boxes, 2, axis=-1), boxes), transposed


def cut(image: Image.Image, boxes: Floats, transposed: NDArray[np.bool_], side: int) -> NDArray[np.uint8]:
    """uint8 crops (crops, 3, side, side), bicubic with antialias; boxes (crops, 4) and `transposed` as of `orient`."""
    crops = np.empty((len(boxes), 3, side, side), dtype=np.uint8)
    for index, (left, upper, right, lower) in enumerate(boxes.tolist()):
        box = (min(left, right), min(upper, lower), max(left, right), max(upper, lower))
        crop = np.asarray(image.resize((side, side), Image.Resampling.BICUBIC, box=box))
        crop = crop[:: 1 if upper < lower else -1, :: 1 if left < right else -1]
        crops[index] = crop.transpose((2, 1, 0) if transposed[index] else (2, 0, 1))
    return crops
