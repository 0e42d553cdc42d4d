"""Object discovery without labels: boxes by TokenCut on the keys of the last block, scored by CorLoc.

The boxes of an image are those of the connected regions of its mask, of every class but one named "background". A
predicted box is right if its IoU with any of them is at least 0.5. Where masks cover the whole image, the box of the
image itself may be right, too: `token_cut_whole_image` is its score.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from franca.data.store.prepared import SPLITS, DenseSet
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
    if not features.dense:
        raise Skipped("the data have no dense set")
    keys = extractor.keys
    if keys is None:
        raise Skipped("the model has no keys")
    of_keys = replace(extractor, embed=lambda images: _as_features(keys(images)))
    found: list[Measurement] = []
    for split in SPLITS[1:]:
        images = features.dense[split]
        rows, hits = _hits(of_keys, images, params.evaluate.dense_size)
        if not len(rows):
            continue
        digest = images_digest(features.digest, split, rows, dense=True)
        for name, column in (("token_cut", 0), ("token_cut_whole_image", 1)):
            outcome = Outcome("hits", hits[:, column], digest, len(rows))
            found.append(measure(name, split, "corloc", outcome, Resampling.of(params)))
    return Result(found)


def _as_features(keys: Tensor) -> Features:
    return Features(keys.mean(dim=(1, 2)), keys)


def _hits(extractor: FeatureExtractor, images: DenseSet, side: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the images that have a box (n,), and whether the found box and that of the image are right (n, 2)."""
    objects = [label for label, name in enumerate(images.classes) if name.lower() != BACKGROUND]
    rows, hits = [], []
    for index in tqdm(range(len(images)), desc=f"objects of {extractor.name}", unit="image", disable=None):
        mask = images.mask(index)
        boxes = mask_boxes(mask, objects)
        if not boxes:
            continue
        patches = patch_features(extractor, images[index], side)
        height, width = (pixels / count for pixels, count in zip(mask.shape, patches.shape[:2], strict=True))
        box = find_object(patches.float().cpu().numpy())
        scaled = Box(box.top * height, box.left * width, box.bottom * height, box.right * width)
        rows.append(index)
        hits.append((is_located(scaled, boxes), is_located(Box(0, 0, *mask.shape), boxes)))
    return np.array(rows, dtype=np.int64), np.array(hits, dtype=bool).reshape(-1, 2)
