"""Linear segmentation of the dense set: logistic regression on patch features, scored on the pixels of the masks."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from franca.data.store.prepared import SPLITS, DenseSet, SplitName
from franca.drawing import save_figure
from franca.evaluation.dense_scores import correct_pixels, overlaps, score_masks
from franca.evaluation.features import FeatureExtractor, FeatureSet, evenly_spaced
from franca.evaluation.intervals import Measurement
from franca.evaluation.pictures import segmentation as pictures
from franca.evaluation.pictures.inputs import PictureInputs
from franca.evaluation.result import Result, Skipped
from franca.evaluation.segmenter import Segmenter, patch_features, upsample
from franca.evaluation.statistics import mean_iou
from franca.params import Params
from franca.probes.regression import LinearMap, fit_logistic

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
    heads = fit_logistic(patches, targets, params.evaluate.linear_c)
    trials = _confusions(extractor, val, side, heads)
    if not trials.sum():
        raise Skipped("the dense set has no val image with a label")
    best = int(mean_iou(overlaps(trials.sum(1)).numpy()).argmax())
    confusions: dict[SplitName, Tensor] = {
        "val": trials[best],
        "test": _confusions(extractor, test, side, [heads[best]])[0],
    }
    found: list[Measurement] = []
    skipped: dict[SplitName, str] = {}
    for split, confusion in confusions.items():
        metrics = {"miou": overlaps, "pixel_accuracy": correct_pixels}
        scores, reason = score_masks("segmentation", split, metrics, confusion, features, params)
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
        mask, classes = images.mask(index), len(images.classes)
        # One-hot with a class of its own for unlabeled pixels, which is dropped before pooling.
        pixels = torch.from_numpy(
            np.eye(classes + 1, dtype=np.float32)[np.where(mask == images.ignore, classes, mask)]
        )
        shares = F.adaptive_avg_pool2d(
            pixels[..., :classes].permute(2, 0, 1)[None], (patches.shape[0], patches.shape[1])
        )[0]
        shares = shares.flatten(1).T.to(patches.device)
        stride = -(-len(images) * len(shares) // MAX_TRAIN_PATCHES)
        labeled = (shares.sum(1) > 0).nonzero()[::stride, 0]
        features.append(patches.flatten(0, 1)[labeled])
        targets.append(shares[labeled])
    if not features:
        return torch.empty(0, 0), torch.empty(0, 0)
    return torch.cat(features), torch.cat(targets)


@torch.inference_mode()
def _confusions(extractor: FeatureExtractor, images: DenseSet, side: int, heads: list[LinearMap]) -> Tensor:
    """Return the pixels by true and predicted class, (heads, images, K, K) float64."""
    classes = len(images.classes)
    result = torch.zeros(len(heads), len(images), classes, classes, dtype=torch.float64)
    for index in range(len(images)):
        image = images[index]
        # Once per image for all heads: the features cost far more than a head.
        features = patch_features(extractor, image, side)
        truth = torch.from_numpy(images.mask(index).astype(np.int64)).to(features.device)
        counted = truth != images.ignore
        for number, head in enumerate(heads):
            pairs = truth[counted] * classes + upsample(head(features), image)[counted]
            result[number, index] = torch.bincount(pairs, minlength=classes**2).view(classes, classes)
    return result
