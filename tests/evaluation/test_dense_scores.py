"""Counts of pixels by class give the scores of the whole confusion matrix."""

import numpy as np
import torch
from sklearn.metrics import jaccard_score
from torch.nn import functional as F

from franca.evaluation.benchmarks.segmentation import patch_shares
from franca.evaluation.dense_scores import correct_pixels, overlaps, pixel_counts
from franca.evaluation.statistics import accuracy, mean_iou

CLASSES, IGNORE = 150, 255


def test_scores_are_those_of_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.randint(CLASSES, (20_000,), generator=generator)
    predicted = torch.where(torch.rand(20_000, generator=generator) < 0.7, truth, truth.flip(0))
    counts = pixel_counts(truth, predicted, CLASSES)
    assert counts.shape == (3, CLASSES)
    expected = jaccard_score(truth, predicted, average="macro")
    np.testing.assert_allclose(mean_iou(overlaps(counts).numpy()), 100 * expected, rtol=1e-5)
    assert accuracy(correct_pixels(counts).numpy()) == 100 * float((truth == predicted).double().mean())


def test_shares_of_patches_are_those_of_one_hot_pixels() -> None:
    mask = np.random.default_rng(0).integers(0, CLASSES, (37, 50), dtype=np.uint8)
    mask[:20, :30] = IGNORE
    for grid in ((4, 6), (37, 50), (1, 1)):
        one_hot = F.one_hot(torch.from_numpy(mask).long(), 256)[..., :CLASSES].float()
        expected = F.adaptive_avg_pool2d(one_hot.permute(2, 0, 1)[None], grid)[0].flatten(1).T
        assert torch.equal(patch_shares(mask, CLASSES, *grid), expected)
