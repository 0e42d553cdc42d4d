"""Batches of multi-crop views, each a function of (seed, step) alone: any number of workers gives the same bytes."""

import os
import signal
import threading
from collections.abc import Generator, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from franca.data.store.index import Lost
from franca.data.store.prepared import DenseSet, ImageSet
from franca.data.views.batch import Batch, RawBatch, part_masks
from franca.data.views.masks import batch_masks
from franca.data.views.missing import MissingImages, fetch_or_replace
from franca.data.views.multi_crop import Draws, Frame, MultiCrop, stack
from franca.data.views.shuffle import Order
from franca.errors import FrancaError
from franca.params import Base, Pretrain

LARGEST_RAW = 256
"""Largest side of images of which whole batches are cropped at once, in pixels."""
WINDOW = (2.0, 4.0)
"""Side of a window of a dense image, in multiples of the global crop's side."""


def sample_rng(*key: int) -> np.random.Generator:
    """A generator that depends on the key alone, as (seed, epoch, sample)."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


class StepDataset(Dataset[Batch | RawBatch]):
    """`dataset[step]` is the batch of a step: a shuffle an epoch without repeats, then crops of each image.

    A batch for a GPU holds the images' pixels, and the GPU cuts all crops at once, which leaves only decoding to the
    loading processes. On a CPU that pays only if all images are squares of one size, at most `LARGEST_RAW` pixels a
    side (of 256 pixels it takes 2.3 times as long); other images are cropped by Pillow one by one. Boxes and changes
    are the same in each case, and crops differ by rounding alone.
    """

    def __init__(
        self,
        images: ImageSet,
        dense: DenseSet | None,
        base: Base,
        params: Pretrain,
        part: range | None = None,
        microbatches: int = 1,
    ) -> None:
        """Prepare batches of a process.

        Args:
            images: The training images.
            dense: Images with segmentation masks, of which windows are mixed in, or None.
            base: Seed, size of a global crop and of a patch.
            params: Batch size, crops, augmentation and masks.
            part: Rows of each batch that this process loads; None for all. The batches of all processes put together
                are the batch of one process alone.
            microbatches: Number of equal parts, each a multiple of `losses.koleo_images` images, that these rows are
                split into for training. Which patches of each are masked is computed here, by the loading processes.
        """
        self.images, self._dense = images, dense
        self._base, self._params = base, params
        self._part = slice(0, params.batch_size) if part is None else slice(part.start, part.stop)
        self._microbatches = microbatches
        self._order = Order(base.seed, images.firsts, params.shuffle_window if images.in_place else len(images))
        self._multi_crop = MultiCrop(base.image_size, params.crops, params.augment)
        height, width = images.common_size or (0, 0)
        self._side = height if 0 < height == width <= LARGEST_RAW else None

    def __getitem__(self, step: int) -> Batch | RawBatch:
        return self.load(step, {})

    def load(self, step: int, lost: dict[int, Lost], for_gpu: bool = False) -> Batch | RawBatch:
        """Return the batch of a step.

        `lost` gets each image that could not be read, and why; others take their place. `for_gpu` is whether a GPU is
        to cut the crops.
        """
        base, params, part = self._base, self._params, self._part
        grid = base.image_size // base.backbone.patch_size
        rng = sample_rng(base.seed, 1, step)
        drawn = batch_masks(params.batch_size, params.losses.koleo_images, grid, params.masks, rng, part)
        masks = part_masks(torch.from_numpy(drawn), self._microbatches)
        rng = sample_rng(base.seed, 2, step)
        windows = rng.random((params.batch_size, 5))[part]
        draws = self._multi_crop.draw(rng, params.batch_size, part)
        images = self._frames(step, windows, draws, lost)
        if self._side:
            return RawBatch(stack(images, self._side), *self._multi_crop.cuts(draws, self._side), masks)
        if for_gpu:
            return RawBatch(*self._multi_crop.flat_cuts(images, draws), masks)
        return Batch(*self._multi_crop.views(images, draws), masks)

    def indices(self, step: int) -> NDArray[np.int64]:
        """The step's images by number, (B,), from the endless sequence of shuffles."""
        return self._order[np.arange(step * self._params.batch_size, (step + 1) * self._params.batch_size)]

    def _frames(
        self, step: int, windows: NDArray[np.float64], draws: Draws, lost: dict[int, Lost]
    ) -> Iterator[tuple[Image.Image, Frame]]:
        """Yield this part's images of the step, or dense ones instead, as rows of five numbers in 0..1 decide."""
        dense = windows[:, 0] < (0 if self._dense is None else self._params.dense_share)
        places = np.flatnonzero(~dense)
        rows = self._part.start + places
        seed = self._base.seed

        def shrink(i: int, index: int) -> int:
            return 1 if self._side else self._multi_crop.shrink(draws.box[:, places[i]], self.images.size(index))

        wanted = fetch_or_replace(
            self.images,
            self.indices(step)[rows].tolist(),
            lambda i: sample_rng(seed, 3, step, int(rows[i])),
            shrink,
            lost,
        )
        for is_dense, uniform in zip(dense, windows.tolist(), strict=True):
            if is_dense:
                yield self._window(uniform)
            else:
                index, image = next(wanted)
                width, height = self.images.size(index)
                # Only JPEGs are shrunk, and to whole pixels: crops must not shift by the part of one that is added.
                shrunk = round(width / image.width)
                yield image, (0, 0, width / shrunk, height / shrunk)

    def _window(self, uniform: list[float]) -> tuple[Image.Image, Frame]:
        """A dense image and a random window of it."""
        assert self._dense is not None
        _, which, scale, x, y = uniform
        image = self._dense[int(which * len(self._dense))]
        side = min(self._base.image_size * (WINDOW[0] + (WINDOW[1] - WINDOW[0]) * scale), *image.size)
        left, upper = x * (image.width - side), y * (image.height - side)
        return image, (left, upper, left + side, upper + side)


class _Results(Dataset[Any]):
    """What a loading process sends for a step: the batch and what is lost, or the fault that ends the run."""

    def __init__(self, dataset: StepDataset, for_gpu: bool) -> None:
        self._dataset, self._for_gpu = dataset, for_gpu

    def __getitem__(self, step: int) -> tuple[Batch | RawBatch, dict[int, Lost]] | FrancaError:
        lost: dict[int, Lost] = {}
        try:
            return self._dataset.load(step, lost, self._for_gpu), lost
        except FrancaError as error:
            # Raised here, it would arrive as a traceback of many lines.
            return error


class StepLoader:
    """Batches of steps `start` … `stop` - 1 in order, made in `workers` processes (0: in this one).

    `pin` is for a GPU: batches lie in pinned memory, and the GPU cuts what is still to be cut. Without it, crops are
    cut where images are loaded, beside the training. Going through it raises a FrancaError where more training images
    cannot be read than `prepare.max_refused` allows; `missing` counts them.
    """

    def __init__(self, dataset: StepDataset, start: int, stop: int, workers: int, pin: bool) -> None:
        self.missing = MissingImages(dataset.images)
        self._loader = DataLoader(
            _Results(dataset, for_gpu=pin),
            batch_size=None,
            sampler=range(start, stop),
            collate_fn=None if pin else _cut,
            num_workers=workers,
            pin_memory=pin,
            prefetch_factor=None if workers == 0 else 4,
            worker_init_fn=_obey_the_trainer_alone,
        )

    def __iter__(self) -> Iterator[Batch | RawBatch]:
        return self.batches()

    def batches(self) -> Generator[Batch | RawBatch]:
        """Iterate over the batches; closing the generator ends the loading processes and threads."""
        for result in self._loader:
            if isinstance(result, FrancaError):
                raise result
            batch, lost = result
            self.missing.add(lost)
            yield batch


def _cut(result: Any) -> Any:
    """Cut the crops with one thread, as in a process that only loads: more might change bytes."""
    if isinstance(result, FrancaError):
        return result
    batch, lost = result
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return batch.cut(), lost
    finally:
        torch.set_num_threads(threads)


def _obey_the_trainer_alone(worker: int) -> None:
    """Pass over what a cancel sends to the whole process group: the trainer needs its batches until it has saved.

    SIGTERM from the trainer itself ends the process, as Python sends it to its children after an error that nobody
    catches, and then waits for them.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _end_with(trainer: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != trainer:
        pass
    os._exit(0)
