"""Images a second of both ways to make crops of decoded images: by Pillow one by one, and a whole batch at once.

`python -m benchmarks.crops` prints them for the demo's crops of small images and for a ViT's crops of larger ones,
draws and color included, on one core; where there is a GPU, also with color, and crops of the second way, made there.
On a CPU seconds are those of the processor, so that other work on it counts for little.
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
"""Preset that the crops are of, side of the images in pixels, images a batch."""
ROUNDS, ROUND_SECONDS = 5, 0.3


def rows() -> list[dict[str, Any]]:
    """One dict for each preset and device: images a second by Pillow, at once, and their ratio."""
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

    # Rounds take turns, and the best counts: what else the machine does slows both alike.
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
    """Batches a second."""
    make()[0].sum().item()  # waits for the device
    start, count = clock(), 0
    while clock() - start < ROUND_SECONDS:
        crops = make()
        count += 1
    crops[0].sum().item()
    return count / (clock() - start)


if __name__ == "__main__":
    print(table(rows()))
