"""Images per second of two ways to cut crops from decoded images: with Pillow one by one, and a whole batch at once.

`python -m benchmarks.crops` measures the demo's crops of small images and a ViT's crops of larger ones on one core,
including random draws and color changes. If there is a GPU, it is measured as well: colors are then changed there, and
batches are cut there. On a CPU processor time is measured, so that other processes have little influence.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.tables import table
from franca import presets
from franca.data.views.batch import Batch, RawBatch
from franca.data.views.loader import LARGEST_RAW
from franca.data.views.multi_crop import MultiCrop, stack

CASES = (("overhead-cpu", 64, 32), ("vitb14-in21k", 256, 8), ("vitb14-in21k", 500, 8))
"""Preset of the crops, side of the images in pixels, images per batch."""
ROUNDS, ROUND_SECONDS = 5, 0.3


def rows() -> list[dict[str, Any]]:
    """Return a row for each preset and device: images per second with Pillow, at once, and their ratio."""
    torch.set_num_threads(1)
    devices = [torch.device(name) for name in ("cpu", "cuda") if name == "cpu" or torch.cuda.is_available()]
    return [_row(*case, device) for case in CASES for device in devices]


def _row(preset: str, side: int, batch_size: int, device: torch.device) -> dict[str, Any]:
    params = presets.load(preset)
    crops = params.pretrain.crops
    multi_crop = MultiCrop(params.base.image_size, crops, params.pretrain.augment)
    rng = np.random.default_rng(0)
    frame = (0.0, 0.0, float(side), float(side))
    noise = rng.integers(0, 256, (batch_size, side, side, 3), dtype=np.uint8)
    images = [(Image.fromarray(pixels), frame) for pixels in noise]

    def one_by_one() -> tuple[Tensor, ...]:
        draws = multi_crop.draw(rng, batch_size, slice(batch_size))
        return Batch(*multi_crop.views(images, draws), []).crops(device)[:2]

    def at_once() -> tuple[Tensor, ...]:
        draws = multi_crop.draw(rng, batch_size, slice(batch_size))
        if side > LARGEST_RAW:
            return RawBatch(*multi_crop.flat_cuts(images, draws), []).crops(device)[:2]
        return RawBatch(stack(images, side), *multi_crop.cuts(draws, side), []).crops(device)[:2]

    # The two ways alternate, and the best round of each counts, so that other load slows both equally.
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    rates = [tuple(batch_size * _rate(make, clock) for make in (one_by_one, at_once)) for _ in range(ROUNDS)]
    pillow, batched = (max(column) for column in zip(*rates, strict=True))
    return {
        "image_size": side,
        "crops": f"2 x {params.base.image_size} + {crops.local_count} x {crops.local_size}",
        "device": device.type,
        "one_by_one": round(pillow),
        "at_once": round(batched),
        "ratio": round(batched / pillow, 2),
    }


def _rate(make: Callable[[], tuple[Tensor, ...]], clock: Callable[[], float]) -> float:
    """Return batches per second."""
    make()[0].sum().item()  # waits for the device
    start, count = clock(), 0
    while clock() - start < ROUND_SECONDS:
        crops = make()
        count += 1
    crops[0].sum().item()
    return count / (clock() - start)


if __name__ == "__main__":
    print(table(rows()))
