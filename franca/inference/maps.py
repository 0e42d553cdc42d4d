"""The `maps` command: patch features of images as colors, and the attention of the class token as heat maps."""

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
"""Default short side of an image, in multiples of the image size of the model."""
MAX_PATCHES = 1 << 16
FITTED_IMAGES = 16
"""Evenly spaced images whose patches determine the colors of all images, at most."""
FITTED_PATCHES = 1 << 15
KEPT_PATCHES = 1 << 14
"""Patches up to which the features of the fitted images are kept for drawing; more are computed again."""


class Observation(NamedTuple):
    """What a model computes for one image.

    Attributes:
        image: The image at the size of the model's input.
        patches: (h, w, D) float32 on the CPU.
        attention: (heads, h, w) float32 on the CPU; None if the block has none.
    """

    image: Image.Image
    patches: Tensor
    attention: Tensor | None


def run(images: Sequence[Path], output: Path, source: str, *, block: int | None, size: int | None) -> None:
    """Write a PNG per image, and name the images that cannot be read.

    All images are colored by the same principal components, so that colors can be compared.

    Args:
        images: Image files, and folders of images.
        output: Folder of the PNGs.
        source: Model, as `franca.load` takes it.
        block: Index of the block to look at; None for the model's features and its last block's attention.
        size: Short side in pixels to which images are resized; None for `MAGNIFICATION` times the model's.
    """
    paths = _list(images)
    model = hub.load(source).to(device_of("auto", "device"))
    side = MAGNIFICATION * model.image_size if size is None else size
    if side < 1 or side % model.patch_size:
        raise FrancaError(f"size {side}: not a multiple of the patch size; choose a multiple of {model.patch_size}")
    note = no_attention(model, block)
    depth = len(model.backbone.blocks)
    about = f"{source}, block {depth - 1 if block is None else block % depth} (0 to {depth - 1})"
    with strict_decoding():
        good = _readable(paths, side, model.patch_size)
        fitted = [list(good)[row] for row in evenly_spaced(len(good), FITTED_IMAGES)]
        patches = sum(good[path] for path in fitted)
        kept = len(fitted) if patches <= KEPT_PATCHES else 1
        view = lru_cache(kept)(lambda path: observe_image(model, open_image(path, side, model.patch_size), block))
        step = -(-patches // FITTED_PATCHES)
        colors = PrincipalColors.fit(torch.cat([view(path).patches.flatten(0, 1)[::step] for path in fitted]))
        root = os.path.commonpath([path.absolute().parent for path in good])
        for path in tqdm(good, desc="maps", unit="image", disable=None):
            seen = view(path)
            aspect = seen.image.height / seen.image.width
            figure = draw(printable(path.name), about, _tiles(seen, colors, note), aspect)
            save_figure(figure, output / f"{path.absolute().relative_to(root)}.png")
    print(f"{output}: {len(good):,} maps by {source}")


def open_image(path: Path, side: int, patch_size: int) -> Image.Image:
    """Return an image resized to `side` pixels on its short side, and to a multiple of the patch size on the other.

    Raises:
        FrancaError: The image cannot be read, or would have more than `MAX_PATCHES` patches.
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
            " choose a smaller size or crop it"
        )
    return image.resize((width, height), Image.Resampling.BICUBIC)


@torch.inference_mode()
def observe_image(model: FrancaModel, image: Image.Image, block: int | None) -> Observation:
    """Run the model up to a block on an image whose sides are multiples of the patch size."""
    device = next(model.parameters()).device
    features, attention = observe(model, to_tensor(image)[None].to(device), block)
    return Observation(image, features.patches[0].cpu(), None if attention is None else attention[0].cpu())


def _list(images: Sequence[Path]) -> list[Path]:
    """Return every file once, with folders replaced by the images in them."""
    paths: list[Path] = []
    for path in images:
        paths += [path / name for name in ImageFolder(path, tars=False).names] if path.is_dir() else [path]
    return list(dict.fromkeys(paths))


def _readable(paths: list[Path], side: int, patch_size: int) -> dict[Path, int]:
    """Return the number of patches of each image that can be drawn; print the others to stderr."""
    good = {}
    for path in tqdm(paths, desc="images", unit="image", disable=None):
        try:
            image = open_image(path, side, patch_size)
        except FrancaError as error:
            tqdm.write(f"skipped: {error}", file=sys.stderr)
        else:
            good[path] = image.width * image.height // patch_size**2
    if not good:
        raise FrancaError("images: none can be drawn; see the reasons above")
    return good


def _tiles(seen: Observation, colors: PrincipalColors, note: str | None) -> list[list[Tile]]:
    """Return two bands: image, features and mean attention; and the attention of each head."""
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
