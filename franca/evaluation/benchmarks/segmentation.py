"""Linear segmentation of the dense set: logistic regression on patch features, scored on the pixels of the masks."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from franca.data.store.prepared import SPLITS, DenseSet, SplitName
from franca.drawing import save_figure
from franca.evaluation.dense_scores import correct_pixels, overlaps, pixel_counts, score_masks
from franca.evaluation.features import FeatureExtractor, FeatureSet, evenly_spaced
from franca.evaluation.intervals import Measurement
from franca.evaluation.methods.logistic import fit_logistic
from franca.evaluation.pictures import segmentation as pictures
from franca.evaluation.pictures.inputs import PictureInputs
from franca.evaluation.result import Result, Skipped
from franca.evaluation.segmenter import Segmenter, patch_features, upsample
from franca.evaluation.statistics import mean_iou
from franca.params import Params
from franca.probes.regression import LinearMap

MAX_TRAIN_PATCHES = 1 << 18
"""Patches that the head is fitted on, at most: 1 GiB at 1,024 float32 dimensions."""


def run(extractor: FeatureExtractor, features: FeatureSet, params: Params) -> Result:
    """Measure miou and pixel_accuracy of `segmentation`; the regularization is chosen by mIoU on val."""
    if not features.dense:
        raise Skipped("the data have no dense set")
    train, val, test = (features.dense[split] for split in SPLITS)
    side = params.evaluate.dense_size
    patches, targets = _train_patches(extractor, train, side)
    if not len(patches):
        raise Skipped("the dense set has no train image with a label")
    if int((targets.sum(0) > 0).sum()) < 2:
        raise Skipped("the masks of the dense set's train images have a single class")
    heads = fit_logistic(patches, targets, targets.shape[1], params.evaluate.linear_c)
    trials = _counts(extractor, val, side, heads)
    if not trials.sum():
        raise Skipped("the dense set has no val image with a label")
    best = int(mean_iou(overlaps(trials.sum(1)).numpy()).argmax())
    counts: dict[SplitName, Tensor] = {
        "val": trials[best],
        "test": _counts(extractor, test, side, [heads[best]])[0],
    }
    found: list[Measurement] = []
    skipped: dict[SplitName, str] = {}
    for split, of_split in counts.items():
        metrics = {"miou": overlaps, "pixel_accuracy": correct_pixels}
        scores, reason = score_masks("segmentation", split, metrics, of_split, features, params)
        found += scores
        skipped |= {split: reason} if reason else {}
    return Result(found, skipped, Segmenter(extractor, side, heads[best]))


def draw(folder: Path, inputs: PictureInputs) -> None:
    """Write patch features as colors, and predicted masks, of our model and its twin with random weights."""
    segmenters: dict[str, Segmenter] = inputs.drawables
    if not segmenters:
        return
    images = inputs.features.dense["test"] or inputs.features.dense["val"]
    rows = evenly_spaced(len(images), inputs.params.evaluate.sample_images).tolist()
    save_figure(pictures.draw_patch_maps(images, rows, segmenters), folder / "patch_maps.png")
    save_figure(pictures.draw_masks(images, rows, segmenters), folder / "masks.png")


def _train_patches(extractor: FeatureExtractor, images: DenseSet, side: int) -> tuple[Tensor, Tensor]:
    """Return features (N, D) of labeled patches and the share of each class in their pixels (N, K).

    At most `MAX_TRAIN_PATCHES` are taken, evenly from all images. Unlabeled pixels count for no class, so the shares
    of a patch add up to the labeled part of it.
    """
    features, targets = [], []
    for index in tqdm(range(len(images)), desc=f"patches of {extractor.name}", unit="image", disable=None):
        patches = patch_features(extractor, images[index], side)
        shares = patch_shares(images.mask(index), len(images.classes), *patches.shape[:2]).to(patches.device)
        stride = -(-len(images) * len(shares) // MAX_TRAIN_PATCHES)
        labeled = (shares.sum(1) > 0).nonzero()[::stride, 0]
        features.append(patches.flatten(0, 1)[labeled])
        targets.append(shares[labeled])
    if not features:
        return torch.empty(0, 0), torch.empty(0, 0)
    return torch.cat(features), torch.cat(targets)


def patch_shares(mask: NDArray[np.uint8], classes: int, height: int, width: int) -> Tensor:
    """Return the share of each class in the pixels of each patch, (height width, K) float32.

    Args:
        mask: (H, W), class of each pixel; values from `classes` on are no class.
        classes: Number of classes K.
        height: Rows of patches.
        width: Columns of patches.
    """
    shares = torch.zeros(height * width, classes)
    # One class at a time: one-hot vectors of all pixels take 200 MB for 512 x 683 pixels and 150 classes.
    for label in (label for label in np.unique(mask).tolist() if label < classes):
        of_class = torch.from_numpy(mask == label).float()[None, None]
        shares[:, label] = F.adaptive_avg_pool2d(of_class, (height, width)).flatten()
    return shares


@torch.inference_mode()
def _counts(extractor: FeatureExtractor, images: DenseSet, side: int, heads: list[LinearMap]) -> Tensor:
    """Return `pixel_counts` of each image, (heads, images, 3, K) float64."""
    classes = len(images.classes)
    result = torch.zeros(len(heads), len(images), 3, classes, dtype=torch.float64)
    for index in range(len(images)):
        image = images[index]
        # Once per image for all heads: the features cost far more than a head.
        features = patch_features(extractor, image, side)
        truth = torch.from_numpy(images.mask(index).astype(np.int64)).to(features.device)
        counted = truth != images.ignore
        for number, head in enumerate(heads):
            predicted = upsample(head(features), image)
            result[number, index] = pixel_counts(truth[counted], predicted[counted], classes)
    return result
