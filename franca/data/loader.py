"""Batches of multi-crop views, each a function of (seed, step) alone: any number of workers gives the same bytes."""

import signal
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from franca.data.color import apply_color
from franca.data.crops import Views, multi_crop
from franca.data.index import Lost
from franca.data.masks import batch_masks
from franca.data.missing import MissingImages, fetch_or_replace
from franca.data.order import Order
from franca.data.store import DenseSet, ImageSet
from franca.errors import FrancaError
from franca.params import Base, Pretrain

WINDOW = (2.0, 4.0)
"""Side of a window of a dense image, in multiples of the global crop's side."""


class Batch(NamedTuple):
    """One step's input, crop-major: rows i B … (i + 1) B - 1 are crop i of the B images."""

    global_views: tuple[Tensor, ...]
    local_views: tuple[Tensor, ...]
    masks: Tensor
    """bool (2 B, patches of a global crop)"""

    def crops(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Global crops (2 B, 3, S, S) and local crops (n B, 3, s, s), float32 in 0..1, and masks, on the device."""
        views = [apply_color(*(part.to(device, non_blocking=True) for part in v)) for v in self[:2]]
        return views[0], views[1], self.masks.to(device, non_blocking=True)


def sample_rng(*key: int) -> np.random.Generator:
    """A generator that depends on the key alone, as (seed, epoch, sample)."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


class StepDataset(Dataset[Batch]):
    """`dataset[step]` is the batch of a step: a shuffle an epoch without repeats, then crops of each image."""

    def __init__(
        self, images: ImageSet, dense: DenseSet | None, base: Base, params: Pretrain, part: range | None = None
    ) -> None:
        """`part` are the rows of each batch that are made here; all of them if None."""
        self.images, self._dense = images, dense
        self._base, self._params = base, params
        self._part = part or range(params.batch_size)
        self._order = Order(base.seed, images.firsts, params.shuffle_window if images.in_place else len(images))

    def __getitem__(self, step: int) -> Batch:
        return self.load(step, {})

    def load(self, step: int, lost: dict[int, Lost]) -> Batch:
        """The batch of a step; `lost` gets the images that could not be read and why, for others took their place."""
        params, seed = self._params, self._base.seed
        views = [
            self._sample(step, row, image) for row, image in zip(self._part, self._fetch(step, lost), strict=True)
        ]
        grid = self._base.image_size // self._base.backbone.patch_size
        masks = batch_masks(2 * params.batch_size, grid, params.masks, sample_rng(seed, 1, step))
        global_views, local_views = zip(*views, strict=True)
        masks = masks.reshape(2, params.batch_size, -1)[:, self._part].reshape(2 * len(self._part), -1)
        return Batch(_collate(global_views), _collate(local_views), torch.from_numpy(masks))

    def _fetch(self, step: int, lost: dict[int, Lost]) -> Iterator[Image.Image]:
        """This part's images of the step, one after the other."""
        indices = self.indices(step)[self._part].tolist()
        seed, part = self._base.seed, self._part
        return fetch_or_replace(self.images, indices, lambda row: sample_rng(seed, 3, step, part[row]), lost)

    def indices(self, step: int) -> NDArray[np.int64]:
        """The step's images by number, (B,), from the endless sequence of shuffles."""
        return self._order[np.arange(step * self._params.batch_size, (step + 1) * self._params.batch_size)]

    def _sample(self, step: int, row: int, image: Image.Image) -> tuple[Views, Views]:
        rng = sample_rng(self._base.seed, 2, step, row)
        size, params = self._base.image_size, self._params
        if self._dense is not None and rng.random() < params.dense_share:
            image = self._dense[int(rng.integers(len(self._dense)))]
            side = min(size * rng.uniform(*WINDOW), *image.size)
            left, upper = rng.uniform(0, image.width - side), rng.uniform(0, image.height - side)
            image = image.crop((round(left), round(upper), round(left + side), round(upper + side)))
        return multi_crop(image, size, params.crops, params.augment, rng)


def _collate(views: Any) -> tuple[Tensor, ...]:
    """Views of B images to tensors with the crop axis first: (crops B, …)."""
    return tuple(
        torch.from_numpy(np.stack(parts, axis=1).reshape(-1, *parts[0].shape[1:]))
        for parts in zip(*views, strict=True)
    )


class _Results(Dataset[Any]):
    """What a loading process sends for a step: the batch and what is lost, or the fault that ends the run."""

    def __init__(self, dataset: StepDataset) -> None:
        self._dataset = dataset

    def __getitem__(self, step: int) -> tuple[Batch, dict[int, Lost]] | FrancaError:
        lost: dict[int, Lost] = {}
        try:
            return self._dataset.load(step, lost), lost
        except FrancaError as error:
            # Raised here, it would arrive as a traceback of many lines.
            return error


def step_loader(dataset: StepDataset, start: int, stop: int, workers: int, pin: bool) -> Iterator[Batch]:
    """Batches of steps `start` … `stop` - 1 in order, made in `workers` processes (0: in this one).

    FrancaError where more training images cannot be read than `prepare.max_refused` allows.
    """
    loader = DataLoader(
        _Results(dataset),
        batch_size=None,
        sampler=range(start, stop),
        num_workers=workers,
        pin_memory=pin,
        prefetch_factor=None if workers == 0 else 4,
        worker_init_fn=_leave_stopping_to_the_trainer,
    )
    missing = MissingImages(dataset.images)
    for result in loader:
        if isinstance(result, FrancaError):
            raise result
        batch, lost = result
        missing.add(lost)
        yield batch


def _leave_stopping_to_the_trainer(worker: int) -> None:
    """Ignore what a cancel sends to the whole process group: the trainer needs its batches until it has saved."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
