"""Clusters of patch features as segmentation, without training: the clusters of a split are matched to its masks.

K-means runs on the features of the scored images, standardized and reduced to 50 principal components, and masks are
compared at 100 x 100, as in NeCo (arXiv 2408.11054). With as many clusters as classes, clusters are matched one to one
(`hungarian_miou`); with more, many to one (`greedy_miou_K`). Both matchings use the masks that they are scored on.
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from franca.data.store.prepared import SPLITS, DenseSet, SplitName
from franca.evaluation.dense_scores import labeled_images, overlaps, pixel_counts
from franca.evaluation.features import FeatureExtractor, FeatureSet
from franca.evaluation.intervals import Measurement, Resampling, measure
from franca.evaluation.methods.kmeans import assign, kmeans
from franca.evaluation.methods.matching import greedy, hungarian
from franca.evaluation.outcomes import Outcome, images_digest
from franca.evaluation.result import Result, Skipped
from franca.evaluation.segmenter import patch_features
from franca.params import Params

CLUSTERS = (300, 500)
SEEDS = 5
RESTARTS = 5
"""Starts of k-means, the best of which counts, for as many clusters as classes."""
COMPONENTS = 50
SIDE = 100
MAX_PATCHES = 1 << 18
"""Patches that are clustered, at most: 1 GiB at 1,024 float32 dimensions."""
PATCHES_OF_CLUSTER = 64
"""Patches for each cluster that k-means is fitted to, at most."""


def run(extractor: FeatureExtractor, features: FeatureSet, params: Params) -> Result:
    """Measure hungarian_miou, and greedy_miou_K for each K of `CLUSTERS` that the number of patches allows."""
    if not features.dense:
        raise Skipped("the data have no dense set")
    found: list[Measurement] = []
    skipped: dict[SplitName, str] = {}
    for split in SPLITS[1:]:
        images = features.dense[split]
        masks = _small_masks(images)
        rows, reason = labeled_images(masks, images.ignore, split)
        if reason:
            skipped[split] = reason
        if reason or not len(rows):
            continue
        digest = images_digest(features.digest, split, rows, dense=True)
        for metric, sums in _sums(extractor, images, rows, masks[rows], params.evaluate.dense_size).items():
            outcome = Outcome("sums", sums, digest, len(rows))
            found.append(measure("overclustering", split, metric, outcome, Resampling.of(params)))
    return Result(found, skipped)


def _small_masks(images: DenseSet) -> NDArray[np.uint8]:
    """Return the masks of all images, (N, SIDE, SIDE)."""
    masks = np.zeros((len(images), SIDE, SIDE), dtype=np.uint8)
    for index in range(len(images)):
        small = Image.fromarray(images.mask(index)).resize((SIDE, SIDE), Image.Resampling.NEAREST)
        masks[index] = np.asarray(small)
    return masks


@torch.inference_mode()
def _sums(
    extractor: FeatureExtractor, images: DenseSet, rows: NDArray[np.int64], masks: NDArray[np.uint8], side: int
) -> dict[str, NDArray[np.float64]]:
    """Return intersection and union of each class, (images, seeds, 2, classes) by metric."""

    def grids() -> Iterator[Tensor]:
        for row in tqdm(rows.tolist(), desc=f"clusters of {extractor.name}", unit="image", disable=None):
            yield patch_features(extractor, images[row], side)

    classes = len(images.classes)
    center, axes, points = _components(grids(), len(rows))
    centers = {}
    for clusters in (classes, *CLUSTERS):
        if clusters > len(points):
            continue
        fitted = points[:: -(-len(points) // (PATCHES_OF_CLUSTER * clusters))]
        restarts = RESTARTS if clusters == classes else 1
        centers[clusters] = [kmeans(fitted, clusters, (seed, clusters), restarts).centers for seed in range(SEEDS)]
    # Two passes over the images instead of one, since the features of all patches may not fit into memory.
    maps: dict[int, list[NDArray[np.int16]]] = {clusters: [] for clusters in centers}
    for patches in grids():
        reduced = (patches.flatten(0, 1).float() - center) @ axes
        for clusters, of_seeds in centers.items():
            found = torch.stack([assign(reduced, chosen)[0] for chosen in of_seeds])
            maps[clusters].append(found.unflatten(1, patches.shape[:2]).short().cpu().numpy())
    return {
        "hungarian_miou" if clusters == classes else f"greedy_miou_{clusters}": np.stack(
            [
                _matched([grid[seed] for grid in found], masks, clusters, classes, images.ignore)
                for seed in range(SEEDS)
            ],
            axis=1,
        )
        for clusters, found in maps.items()
    }


def _components(grids: Iterator[Tensor], images: int) -> tuple[Tensor, Tensor, Tensor]:
    """Standardize patch features and find their principal components.

    Args:
        grids: Patch features (h, w, D) of each image.
        images: Number of images.

    Returns:
        mean (D,), axes (D, C) that contain the division by the standard deviations, and reduced features (N, C) of at
        most about `MAX_PATCHES` patches.
    """
    kept = []
    for patches in grids:
        flat = patches.flatten(0, 1).float()
        kept.append(flat[:: -(-images * len(flat) // MAX_PATCHES)])
    x = torch.cat(kept)
    center, std = x.mean(0), x.std(0, unbiased=False)
    scale = torch.where(std > 1e-6, std, 1.0)
    x = x - center
    covariance = (x / scale).double()
    axes = torch.linalg.eigh(covariance.T @ covariance)[1].flip(1)[:, :COMPONENTS].float() / scale[:, None]
    return center, axes, x @ axes


def _matched(
    grids: list[NDArray[np.int16]], masks: NDArray[np.uint8], clusters: int, classes: int, ignore: int
) -> NDArray[np.float64]:
    """Return intersection and union of each class, (images, 2, classes), after matching the clusters of all images."""
    pairs = []
    counts = np.zeros((clusters, classes))
    for grid, mask in zip(grids, masks, strict=True):
        rows, columns = (np.arange(SIDE) * length // SIDE for length in grid.shape)
        known = mask != ignore
        found, truth = (part[known].astype(np.int64) for part in (grid[rows[:, None], columns], mask))
        counts += np.bincount(found * classes + truth, minlength=clusters * classes).reshape(clusters, classes)
        pairs.append((found, truth))
    names = hungarian(counts) if clusters == classes else greedy(counts)
    counted = [
        pixel_counts(torch.from_numpy(truth), torch.from_numpy(names[found]), classes) for found, truth in pairs
    ]
    sums: NDArray[np.float64] = overlaps(torch.stack(counted)).numpy()
    return sums
