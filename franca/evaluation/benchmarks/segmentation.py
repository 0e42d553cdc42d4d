"""Linear segmentation: logistic regression on each patch feature, upsampled to the pixels of the mask."""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from franca.data.store.prepared import SPLITS, DenseSet, SplitName, Store
from franca.evaluation.features import Backbone, LeftOut, Skipped, to_tensor
from franca.evaluation.intervals import Measurement, Resampling, measure
from franca.evaluation.outcomes import Outcome, images_digest
from franca.evaluation.statistics import mean_iou
from franca.params import Params
from franca.probes.regression import LinearMap, fit_logistic

TRAIN_TOKENS = 1 << 18


@dataclass(frozen=True)
class Segmenter:
    """A backbone with a linear head, on images whose short side is brought to about `side` pixels."""

    backbone: Backbone
    side: int
    head: LinearMap

    def __call__(self, image: Image.Image) -> Tensor:
        """Class indices (H, W) of an image of that size."""
        return upsample(self.head(patch_features(self.backbone, image, self.side)), image)


def run(backbone: Backbone, store: Store, params: Params) -> tuple[Segmenter, list[Measurement | LeftOut]]:
    """miou and pixel_accuracy of benchmark `segmentation`; the regularization is chosen on val."""
    train, val, test = (_dense(store, split) for split in SPLITS)
    side = params.evaluate.dense_size
    features, targets = _train_tokens(backbone, train, side)
    if not len(features):
        raise Skipped("the dense set has no train image with a label")
    if int((targets.sum(0) > 0).sum()) < 2:
        raise Skipped("the masks of the dense set's train images have a single class")
    heads = fit_logistic(features, targets, params.evaluate.linear_c)
    trials = _confusions(backbone, val, side, heads)
    if not trials.sum():
        raise Skipped("the dense set has no val image with a label")
    best = int(mean_iou(overlaps(trials.sum(1)).numpy()).argmax())
    confusions: dict[SplitName, Tensor] = {
        "val": trials[best],
        "test": _confusions(backbone, test, side, [heads[best]])[0],
    }
    scores: list[Measurement | LeftOut] = []
    for split, confusion in confusions.items():
        rows = (confusion.sum((1, 2)) > 0).nonzero()[:, 0]
        if not len(rows):
            continue
        labeled = confusion[rows]
        if int((labeled.sum((0, 2)) > 0).sum()) < 2:
            scores.append(LeftOut(split, f"the masks of the dense set's {split} images have a single class"))
            continue
        images = images_digest(store.digest, split, rows.numpy(), dense=True)
        for metric, sums in (("miou", overlaps(labeled)), ("pixel_accuracy", right_pixels(labeled))):
            outcome = Outcome("sums", sums.numpy(), images, len(rows))
            scores.append(measure("segmentation", split, metric, outcome, Resampling.of(params)))
    return Segmenter(backbone, side, heads[best]), scores


@torch.inference_mode()
def patch_features(backbone: Backbone, image: Image.Image, side: int) -> Tensor:
    """Features (h, w, D) of an image brought to a whole number of patches, about `side` pixels on its short side."""
    scale = side / min(image.size) / backbone.patch_size
    columns, rows = (max(1, round(length * scale)) for length in image.size)
    size = (columns * backbone.patch_size, rows * backbone.patch_size)
    return backbone.embed(to_tensor(image.resize(size, Image.Resampling.BICUBIC))[None]).patches[0]


def upsample(logits: Tensor, image: Image.Image) -> Tensor:
    """The most likely class of each pixel, (H, W), from logits (h, w, K)."""
    grown = F.interpolate(logits.permute(2, 0, 1)[None], size=(image.height, image.width), mode="bilinear")
    return grown[0].argmax(0)


def overlaps(confusion: Tensor) -> Tensor:
    """Pixels (…, 2, K) in the intersection and in the union of each class, of matrices (…, K, K) of pixels."""
    hits = confusion.diagonal(dim1=-2, dim2=-1)
    return torch.stack([hits, confusion.sum(-1) + confusion.sum(-2) - hits], dim=-2)


def right_pixels(confusion: Tensor) -> Tensor:
    """Right pixels and all pixels, (…, 2), of matrices (…, K, K) of pixels."""
    return torch.stack([confusion.diagonal(dim1=-2, dim2=-1).sum(-1), confusion.sum((-2, -1))], dim=-1)


def _dense(store: Store, split: SplitName) -> DenseSet:
    images = store.dense(split)
    if images is None:
        raise Skipped("the data have no dense set")
    return images


def _train_tokens(backbone: Backbone, images: DenseSet, side: int) -> tuple[Tensor, Tensor]:
    """Features (N, D) of labeled patches and the share of each class in them (N, K), at most `TRAIN_TOKENS`."""
    features, targets = [], []
    for index in tqdm(range(len(images)), desc=f"patches of {backbone.name}", unit="image", disable=None):
        tokens = patch_features(backbone, images[index], side)
        mask, classes = images.mask(index), len(images.classes)
        pixels = torch.from_numpy(
            np.eye(classes + 1, dtype=np.float32)[np.where(mask == images.ignore, classes, mask)]
        )
        shares = F.adaptive_avg_pool2d(
            pixels[..., :classes].permute(2, 0, 1)[None], (tokens.shape[0], tokens.shape[1])
        )[0]
        shares = shares.flatten(1).T.to(tokens.device)
        stride = -(-len(images) * len(shares) // TRAIN_TOKENS)
        labeled = (shares.sum(1) > 0).nonzero()[::stride, 0]
        features.append(tokens.flatten(0, 1)[labeled])
        targets.append(shares[labeled])
    if not features:
        return torch.empty(0, 0), torch.empty(0, 0)
    return torch.cat(features), torch.cat(targets)


@torch.inference_mode()
def _confusions(backbone: Backbone, images: DenseSet, side: int, heads: list[LinearMap]) -> Tensor:
    """Pixels by true and predicted class, float64 (heads, images, K, K)."""
    classes = len(images.classes)
    result = torch.zeros(len(heads), len(images), classes, classes, dtype=torch.float64)
    for index in range(len(images)):
        image = images[index]
        features = patch_features(backbone, image, side)
        truth = torch.from_numpy(images.mask(index).astype(np.int64)).to(features.device)
        counted = truth != images.ignore
        for number, head in enumerate(heads):
            pairs = truth[counted] * classes + upsample(head(features), image)[counted]
            result[number, index] = torch.bincount(pairs, minlength=classes**2).view(classes, classes)
    return result
