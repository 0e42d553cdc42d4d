"""Load batches of multi-crop views.

A batch depends on seed and step alone, so it has the same bytes with any number of loading processes.
"""

import os
import signal
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from franca.data.store.index import LostRecord
from franca.data.store.prepared import DenseSet, ImageSet
from franca.data.views.batch import Batch, RawBatch, part_masks
from franca.data.views.lost_images import LostImages, fetch_or_replace
from franca.data.views.masks import batch_masks
from franca.data.views.multi_crop import Draws, Frame, MultiCrop, stack
from franca.data.views.shuffle import ShuffledOrder
from franca.errors import FrancaError
from franca.params import Base, Pretrain

LARGEST_RAW = 256
"""On a CPU, whole batches are cropped at once if all images are squares of at most this side, in pixels."""
WINDOW = (2.0, 4.0)
"""Smallest and largest side of a window of a dense image, in multiples of the global crop's side."""


def sample_rng(*key: int) -> np.random.Generator:
    """Return a random generator that depends only on the key, such as (seed, purpose, step).

    Purposes: 0 shuffles, 1 masks, 2 crops and windows, 3 replacements of lost images.
    """
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


class StepDataset(Dataset[Batch | RawBatch]):
    """The batches of a run: `dataset[step]` is the batch of a step.

    A batch for a GPU contains the pixels of the images, and the GPU makes all crops at once; the loading processes
    only decode. On a CPU, this is done only if all images are squares of one size, at most `LARGEST_RAW` pixels a side
    (at 256 pixels it takes 2.3 times as long). Other images are cropped by Pillow, one by one. Boxes and color changes
    are the same in all cases; the crops differ only by rounding.
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
        """Store what the batches of one process consist of.

        Args:
            images: The training images.
            dense: Images with segmentation masks, of which windows are mixed in, or None.
            base: Seed, size of a global crop and of a patch.
            params: Batch size, crops, augmentation and masks.
            part: Rows of each batch that this process loads; None for all. The parts of all processes together are the
                batch that a single process would load.
            microbatches: Number of equal parts, each a multiple of `losses.koleo_images` images, that these rows are
                split into for training. The indices of masked patches are computed for each part.
        """
        self.images, self._dense = images, dense
        self._base, self._params = base, params
        self._part = slice(0, params.batch_size) if part is None else slice(part.start, part.stop)
        self._microbatches = microbatches
        self._order = ShuffledOrder(
            base.seed, images.firsts, params.shuffle_window if images.in_place else len(images)
        )
        self._multi_crop = MultiCrop(base.image_size, params.crops, params.augment)
        height, width = images.common_size or (0, 0)
        self._side = height if 0 < height == width <= LARGEST_RAW else None

    def __getitem__(self, step: int) -> Batch | RawBatch:
        """Return the batch of a step for a CPU."""
        return self.load(step, {})

    def load(self, step: int, lost: dict[int, LostRecord], for_gpu: bool = False) -> Batch | RawBatch:
        """Return the batch of a step.

        Args:
            step: Number of the step, from 0.
            lost: Filled with the images that could not be read and were replaced, and the reasons.
            for_gpu: Whether a GPU will make the crops.

        Raises:
            FrancaError: No image can be read.
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
            return RawBatch(stack(images, self._side), *self._multi_crop.specs(draws, self._side), masks)
        if for_gpu:
            return RawBatch(*self._multi_crop.flat_specs(images, draws), masks)
        return Batch(*self._multi_crop.views(images, draws), masks)

    def indices(self, step: int) -> NDArray[np.int64]:
        """Return the indices of the images of a step, over all processes: int64 (B,)."""
        return self._order[np.arange(step * self._params.batch_size, (step + 1) * self._params.batch_size)]

    def _frames(
        self, step: int, windows: NDArray[np.float64], draws: Draws, lost: dict[int, LostRecord]
    ) -> Iterator[tuple[Image.Image, Frame]]:
        """Yield the images of this process's part of a step, and the frames to crop from.

        Args:
            step: Number of the step.
            windows: Five numbers in 0..1 for each image: whether to use a window of a dense image instead, and which.
            draws: The numbers that determine the crops.
            lost: Filled with the images that could not be read.
        """
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
                # Only JPEGs are shrunk, to a size that is rounded up. The frame leaves out the added fraction of a
                # pixel, which would shift the crops.
                shrunk = round(width / image.width)
                yield image, (0, 0, width / shrunk, height / shrunk)

    def _window(self, uniform: list[float]) -> tuple[Image.Image, Frame]:
        """Return a random dense image and the frame of a random window of it."""
        assert self._dense is not None
        _, which, scale, x, y = uniform
        image = self._dense[int(which * len(self._dense))]
        side = min(self._base.image_size * (WINDOW[0] + (WINDOW[1] - WINDOW[0]) * scale), *image.size)
        left, upper = x * (image.width - side), y * (image.height - side)
        return image, (left, upper, left + side, upper + side)


class _Results(Dataset[Any]):
    """The results of a loading process: the batch of a step and its lost images, or the error that ends the run."""

    def __init__(self, dataset: StepDataset, for_gpu: bool) -> None:
        self._dataset, self._for_gpu = dataset, for_gpu

    def __getitem__(self, step: int) -> tuple[Batch | RawBatch, dict[int, LostRecord]] | FrancaError:
        lost: dict[int, LostRecord] = {}
        try:
            return self._dataset.load(step, lost, self._for_gpu), lost
        except FrancaError as error:
            # Raised here, it would arrive in the trainer as a RuntimeError with the text of a traceback.
            return error


class StepLoader:
    """The batches of consecutive steps, loaded ahead in worker processes; `lost` counts unreadable images."""

    def __init__(self, dataset: StepDataset, start: int, stop: int, workers: int, pin: bool) -> None:
        """Store the arguments; processes start with iteration.

        Args:
            dataset: The batches.
            start: The first step.
            stop: The step after the last one.
            workers: Number of loading processes; 0 to load in this process.
            pin: Whether the batches are for a GPU. They are then in pinned memory, and the GPU makes the crops.
        """
        self.lost = LostImages(dataset.images)
        self._loader = DataLoader(
            _Results(dataset, for_gpu=pin),
            batch_size=None,
            sampler=range(start, stop),
            collate_fn=None if pin else _make_crops,
            num_workers=workers,
            pin_memory=pin,
            prefetch_factor=None if workers == 0 else 4,
            worker_init_fn=_ignore_foreign_signals,
        )

    def __iter__(self) -> Generator[Batch | RawBatch]:
        """Yield the batches in order; closing the generator ends the loading processes and threads.

        Raises:
            FrancaError: More training images are lost than `prepare.max_refused` allows, or a loading process died.
        """
        with worker_deaths_as_errors():
            for result in self._results():
                if isinstance(result, FrancaError):
                    raise result
                batch, lost = result
                self.lost.add(lost)
                yield batch

    def _results(self) -> Iterator[Any]:
        """Yield what the loading processes send."""
        results = iter(self._loader)
        while True:
            try:
                result = next(results)
            except StopIteration:
                return
            except (ConnectionError, EOFError) as error:
                # Tensors are received over a socket of the worker. If it dies just then, this error comes before torch
                # notices the death. Errors that a worker itself has sent start with "Caught".
                if str(error).startswith("Caught"):
                    raise
                raise _worker_death("a DataLoader worker closed its connection") from error
            yield result


@contextmanager
def worker_deaths_as_errors() -> Iterator[None]:
    """Raise FrancaError if a loading process dies.

    torch raises a RuntimeError in a handler of SIGCHLD, so at any line of the main thread: while it waits for a batch
    or during a training step. Use this around everything that runs while batches are loaded.
    """
    try:
        yield
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        if not reason.startswith("DataLoader worker (pid"):
            raise
        raise _worker_death(reason) from error


def _worker_death(reason: str) -> FrancaError:
    """Return the error for a loading process that has died."""
    return FrancaError(
        f"data loading: {reason}; if the machine ran out of memory, lower runtime.workers, and if a container ran "
        "out of shared memory, raise its limit (docker run --shm-size); then run again"
    )


def _make_crops(result: Any) -> Any:
    """Make the crops of a result with one thread, as worker processes do; another number might change their bytes."""
    if isinstance(result, FrancaError):
        return result
    batch, lost = result
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return batch.make_crops(), lost
    finally:
        torch.set_num_threads(threads)


def _ignore_foreign_signals(worker: int) -> None:
    """Ignore SIGINT, and SIGTERM unless the trainer sent it.

    A cancelled run gets these signals as a process group, but the trainer needs batches until it has saved a
    checkpoint. SIGTERM from the trainer must end the process: after an uncaught exception, Python sends it to its
    children and waits for them.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _end_with(trainer: int) -> None:
    """Wait for SIGTERM from the process `trainer`, then exit."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != trainer:
        pass
    os._exit(0)
