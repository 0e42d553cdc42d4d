"""k-NN on corrupted images: 14 of the 15 corruptions of ImageNet-C at five levels, against clean training images."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from franca.data.store.prepared import SplitName
from franca.data.store.transform import load_images
from franca.evaluation.features import BATCH, FeatureExtractor, FeatureSet, evenly_spaced
from franca.evaluation.intervals import Measurement, Resampling, measure
from franca.evaluation.methods.corruptions import CORRUPTIONS, LEVELS, corrupt
from franca.evaluation.methods.knn_votes import knn_classes
from franca.evaluation.outcomes import Outcome
from franca.evaluation.result import Result
from franca.params import Params

MAX_IMAGES = 250
"""Images of a split that are corrupted, at most; each is embedded 71 times."""


def run(extractor: FeatureExtractor, features: FeatureSet, params: Params) -> Result:
    """Measure top1 of `corruptions` over all corruptions and levels, top1_NAME of each, and top1_clean."""
    splits, skipped = features.labeled_splits()
    found: list[Measurement] = []
    for split in splits:
        labels = features.splits[split].labels.cpu().numpy()
        known = np.flatnonzero(labels >= 0)
        rows = known[evenly_spaced(len(known), MAX_IMAGES)]
        hits = _hits(extractor, features, split, rows, labels[rows], params)
        clean = hits.pop("clean")
        shares = {"top1": np.mean(list(hits.values()), axis=(0, 1)), "top1_clean": clean[0].astype(np.float64)}
        shares |= {f"top1_{name}": of_levels.mean(axis=0) for name, of_levels in hits.items()}
        digest = features.images(split, rows)
        for metric, share in shares.items():
            outcome = Outcome("sums", np.stack([share, np.ones_like(share)], axis=1), digest, len(rows))
            found.append(measure("corruptions", split, metric, outcome, Resampling.of(params)))
    return Result(found, skipped)


def _hits(
    extractor: FeatureExtractor,
    features: FeatureSet,
    split: SplitName,
    rows: NDArray[np.int64],
    truth: NDArray[np.int64],
    params: Params,
) -> dict[str, NDArray[np.bool_]]:
    """Return which images are right, (levels, n) by corruption, and (1, n) for `clean` images."""
    images = load_images(features.image_sets[split], extractor.image_size, rows.tolist())
    train, labels = features.labeled("train")
    k = params.evaluate.knn_k
    expected = torch.from_numpy(truth).to(labels.device)

    def classify(part: Tensor) -> NDArray[np.bool_]:
        pooled = torch.cat([embed_pooled(extractor, batch) for batch in part.split(BATCH)])
        temperature = params.evaluate.knn_temperature
        predicted = knn_classes(train, labels, pooled, len(features.classes), [k], temperature)[k].classes
        return np.asarray((predicted == expected).cpu().numpy())

    found = {"clean": classify(images)[None]}
    for name in tqdm(CORRUPTIONS, desc=f"corruptions of {extractor.name}", unit="kind", disable=None):
        found[name] = np.stack([classify(corrupt(name, images, level)) for level in range(1, LEVELS + 1)])
    return found


@torch.inference_mode()
def embed_pooled(extractor: FeatureExtractor, images: Tensor) -> Tensor:
    """Return pooled features (B, D) of images (B, 3, S, S) uint8 that are already of the extractor's size."""
    return extractor.native(images) if extractor.native else extractor.embed(images).pooled.clone()
