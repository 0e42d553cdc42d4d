"""Video object segmentation: the masks of a first frame are passed on to the others by similar patches.

Nothing is trained. J is the intersection over union of each object, F the F-measure of its contour, both the mean over
frames without the first and the last one, and over the objects of all videos, as in DAVIS 2017.
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from franca.data.store.prepared import SPLITS
from franca.evaluation.features import FeatureExtractor, FeatureSet
from franca.evaluation.intervals import Measurement, Resampling, measure
from franca.evaluation.methods.video import contour_accuracy, propagate, region_similarity, stretch
from franca.evaluation.outcomes import Outcome, images_digest
from franca.evaluation.result import Result
from franca.evaluation.segmenter import patch_features
from franca.evaluation.sets.videos import VideoSet
from franca.params import Params

SIDE = 480
"""Short side of the frames in pixels."""
UNLABELED = 255


def run(extractor: FeatureExtractor, features: FeatureSet, params: Params) -> Result:
    """Measure jf, the mean of J and F, and j and f of `video`."""
    found: list[Measurement] = []
    for split in SPLITS[1:]:
        videos = features.videos[split]
        sums = [
            _score(extractor, videos, frames)
            for frames in tqdm(videos.sequences, desc=f"videos of {extractor.name}", unit="video", disable=None)
        ]
        rows = np.flatnonzero([objects > 0 for *_, objects in sums])
        if not len(rows):
            continue
        j, f, objects = np.array(sums)[rows].T
        digest = images_digest(features.digest, split, rows, dense=True)
        for metric, total in {"jf": (j + f) / 2, "j": j, "f": f}.items():
            outcome = Outcome("sums", np.stack([total, objects], axis=1), digest, len(rows))
            found.append(measure("video", split, metric, outcome, Resampling.of(params)))
    return Result(found)


def _score(extractor: FeatureExtractor, videos: VideoSet, frames: range) -> tuple[float, float, int]:
    """Return the sums of J and of F over the objects of a video, and their number; 0 if no frame can be scored."""
    first = videos.mask(frames[0])
    objects = [number for number in np.unique(first).tolist() if number not in (0, UNLABELED)]
    if not objects or len(frames) < 3:
        return 0.0, 0.0, 0
    scores: list[list[tuple[float, float]]] = []
    for index, predicted in zip(frames[1:-1], _predict(extractor, videos, frames[:-1], first, objects), strict=True):
        truth = videos.mask(index)
        pairs = [(truth == number, predicted == place) for place, number in enumerate(objects, 1)]
        scores.append([(region_similarity(*pair), contour_accuracy(*pair)) for pair in pairs])
    j, f = np.array(scores).reshape(-1, len(objects), 2).mean(axis=0).sum(axis=0)
    return float(j), float(f), len(objects)


@torch.inference_mode()
def _predict(
    extractor: FeatureExtractor, videos: VideoSet, frames: range, first: NDArray[np.uint8], objects: list[int]
) -> Iterator[NDArray[np.int64]]:
    """Yield the place in `objects`, from 1, of each pixel of all frames but the first; 0 is the background."""

    def grids() -> Iterator[Tensor]:
        for index in frames:
            yield patch_features(extractor, videos[index], SIDE).float()

    start = patch_features(extractor, videos[frames[0]], SIDE)
    small = np.asarray(Image.fromarray(first).resize((start.shape[1], start.shape[0]), Image.Resampling.NEAREST))
    places = np.where(np.isin(small, objects), np.searchsorted(objects, small) + 1, 0)
    shares = F.one_hot(torch.from_numpy(places), len(objects) + 1).float().to(start.device)
    for found in propagate(grids(), shares):
        grown = F.interpolate(found.permute(2, 0, 1)[None], size=first.shape, mode="bilinear")[0]
        yield stretch(grown).argmax(dim=0).cpu().numpy()
