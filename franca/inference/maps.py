"""What a model sees in images, as pictures: patch features as colors, the class token's attention as heat."""

import os
import sys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from franca import hub
from franca.data.ingest.sources import printable
from franca.data.store.images.decode import strict_decoding
from franca.drawing import PrincipalColors, save_figure
from franca.errors import FrancaError
from franca.evaluation.features import evenly_spaced, to_tensor
from franca.inference.attention import no_attention, observe
from franca.inference.contact_sheet import Tile, draw
from franca.inference.image_folder import Found, ImageFolder
from franca.models import FrancaModel
from franca.runtime import device_of

MAGNIFICATION = 4
"""Short side of an image by default, in multiples of the side that the model was trained at."""
MAX_PATCHES = 1 << 16
FITTED_IMAGES = 16
"""So many images, evenly spaced, determine the colors of all."""
FITTED_PATCHES = 1 << 15
KEPT_PATCHES = 1 << 14
"""Features of the fitted images are kept for drawing if they are this many patches at most, else computed again."""


class Seen(NamedTuple):
    """An image at the size that the model saw, its patches (h, w, D), and their attention (heads, h, w) if any."""

    image: Image.Image
    patches: Tensor
    attention: Tensor | None


def run(images: Sequence[Path], output: Path, source: str, *, block: int | None, size: int | None) -> None:
    """The `maps` command: a PNG in `output` for each image, files or those of folders; bad ones are told.

    All are colored by the same components, so that colors compare.
    """
    paths = _list(images)
    model = hub.load(source).to(device_of("auto", "device"))
    side = MAGNIFICATION * model.image_size if size is None else size
    if side < 1 or side % model.patch_size:
        raise FrancaError(f"--size {side}: must be a multiple of the patch, {model.patch_size} pixels")
    note = no_attention(model, block)
    depth = len(model.backbone.blocks)
    about = f"{source}, block {depth - 1 if block is None else block % depth} (0 to {depth - 1})"
    with strict_decoding():
        good = _readable(paths, side, model.patch_size)
        fitted = [list(good)[row] for row in evenly_spaced(len(good), FITTED_IMAGES)]
        patches = sum(good[path] for path in fitted)
        kept = len(fitted) if patches <= KEPT_PATCHES else 1
        look = lru_cache(kept)(lambda path: see(model, open_image(path, side, model.patch_size), block))
        step = -(-patches // FITTED_PATCHES)
        colors = PrincipalColors.fit(torch.cat([look(path).patches.flatten(0, 1)[::step] for path in fitted]))
        root = os.path.commonpath([path.absolute().parent for path in good])
        for path in tqdm(good, desc="maps", unit="image", disable=None):
            seen = look(path)
            aspect = seen.image.height / seen.image.width
            figure = draw(printable(path.name), about, _tiles(seen, colors, note), aspect)
            save_figure(figure, output / f"{path.absolute().relative_to(root)}.png")
    print(f"{output}: {len(good):,} maps by {source}")


def open_image(path: Path, side: int, patch_size: int) -> Image.Image:
    """The whole image with its short side at `side`, its long side at the nearest multiple of the patch.

    Raises FrancaError where it cannot be read or would be more than `MAX_PATCHES`.
    """
    image = Found(path.name, path).open()
    if isinstance(image, str):
        raise FrancaError(f"{printable(str(path))}: {image}")
    scale = side / min(image.size) / patch_size
    width, height = (round(length * scale) * patch_size for length in image.size)
    patches = width * height // patch_size**2
    if patches > MAX_PATCHES:
        raise FrancaError(
            f"{printable(str(path))}: {width} x {height} pixels are {patches:,} patches, more than {MAX_PATCHES:,};"
            " give a smaller --size or cut it"
        )
    return image.resize((width, height), Image.Resampling.BICUBIC)


@torch.inference_mode()
def see(model: FrancaModel, image: Image.Image, block: int | None) -> Seen:
    """What a block of the model makes of an image whose sides are multiples of the patch."""
    device = next(model.parameters()).device
    features, attention = observe(model, to_tensor(image)[None].to(device), block)
    return Seen(image, features.patches[0].cpu(), None if attention is None else attention[0].cpu())


def _list(images: Sequence[Path]) -> list[Path]:
    """Every file once, folders replaced by the images in them."""
    paths: list[Path] = []
    for path in images:
        paths += [path / name for name in ImageFolder(path, tars=False).names] if path.is_dir() else [path]
    return list(dict.fromkeys(paths))


def _readable(paths: list[Path], side: int, patch_size: int) -> dict[Path, int]:
    """Return the number of patches of each image that can be drawn; name the others."""
    good = {}
    for path in tqdm(paths, desc="images", unit="image", disable=None):
        try:
            image = open_image(path, side, patch_size)
        except FrancaError as error:
            tqdm.write(f"left out: {error}", file=sys.stderr)
        else:
            good[path] = image.width * image.height // patch_size**2
    if not good:
        raise FrancaError("no image is left to be drawn")
    return good


def _tiles(seen: Seen, colors: PrincipalColors, note: str | None) -> list[list[Tile]]:
    """The image, its features and the mean attention; then the attention of each head."""
    height, width = seen.patches.shape[:2]
    whole = [
        Tile(f"image, {seen.image.width} x {seen.image.height}", np.asarray(seen.image)),
        Tile(f"patch features, {width} x {height}", colors(seen.patches)),
    ]
    if seen.attention is None:
        return [[*whole, Tile(note or "", None)]]
    mean = _heat("attention of the class token, up to", seen.attention.mean(0))
    return [[*whole, mean], [_heat(f"head {head},", heat) for head, heat in enumerate(seen.attention)]]


def _heat(caption: str, shares: Tensor) -> Tile:
    return Tile(f"{caption} {100 * shares.max().item():.2g} %", shares.numpy())
