"""Object discovery without labels: boxes by TokenCut on the keys of the last block, scored by CorLoc.

A data set with boxes has its own. Otherwise the boxes of an image are those of the connected regions of its mask, of
every class but one named "background". A predicted box is right if its IoU with any of them is at least 0.5. Where
objects fill the whole image, the box of the image itself may be right, too: `token_cut_whole_image` is its score.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from franca.data.store.prepared import SPLITS, DenseSet, ImageSet, SplitName
from franca.evaluation.features import FeatureExtractor, FeatureSet
from franca.evaluation.intervals import Measurement, Resampling, measure
from franca.evaluation.methods.token_cut import Box, find_object, is_located, mask_boxes
from franca.evaluation.outcomes import Outcome, images_digest
from franca.evaluation.result import Result, Skipped
from franca.evaluation.segmenter import patch_features
from franca.models import Features
from franca.params import Params

BACKGROUND = "background"


def run(extractor: FeatureExtractor, features: FeatureSet, params: Params) -> Result:
    """Measure corloc of `token_cut` and of its control `token_cut_whole_image`."""
    if not features.dense and not features.boxes:
        raise Skipped("the data have neither a dense set nor boxes")
    keys = extractor.keys
    if keys is None:
        raise Skipped("the model has no keys")
    of_keys = replace(extractor, embed=lambda images: _as_features(keys(images)))
    found: list[Measurement] = []
    for split in SPLITS[1:]:
        images, boxes_of = _objects(features, split)
        rows, hits = _hits(of_keys, images, boxes_of, params.evaluate.dense_size)
        if not len(rows):
            continue
        digest = images_digest(features.digest, split, rows, dense=True)
        for name, column in (("token_cut", 0), ("token_cut_whole_image", 1)):
            outcome = Outcome("hits", hits[:, column], digest, len(rows))
            found.append(measure(name, split, "corloc", outcome, Resampling.of(params)))
    return Result(found)


def _as_features(keys: Tensor) -> Features:
    return Features(keys.mean(dim=(1, 2)), keys)


def _objects(features: FeatureSet, split: SplitName) -> tuple[ImageSet, Callable[[int], list[Box]]]:
    """Return the images of a split, and a function that returns the boxes of an image."""
    if features.boxes:
        return features.boxes[split], features.boxes[split].boxes
    dense: DenseSet = features.dense[split]
    objects = [label for label, name in enumerate(dense.classes) if name.lower() != BACKGROUND]
    return dense, lambda index: mask_boxes(dense.mask(index), objects)


def _hits(
    extractor: FeatureExtractor, images: ImageSet, boxes_of: Callable[[int], list[Box]], side: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the images that have a box (n,), and whether the found box and that of the image are right (n, 2)."""
    rows, hits = [], []
    for index in tqdm(range(len(images)), desc=f"objects of {extractor.name}", unit="image", disable=None):
        boxes = boxes_of(index)
        if not boxes:
            continue
        image = images[index]
        size = image.height, image.width
        patches = patch_features(extractor, image, side)
        height, width = (pixels / count for pixels, count in zip(size, patches.shape[:2], strict=True))
        box = find_object(patches.float().cpu().numpy())
        scaled = Box(box.top * height, box.left * width, box.bottom * height, box.right * width)
        rows.append(index)
        hits.append((is_located(scaled, boxes), is_located(Box(0, 0, *size), boxes)))
    return np.array(rows, dtype=np.int64), np.array(hits, dtype=bool).reshape(-1, 2)
