"""Scores of how unlike the training images an image is, and how well a score separates known from novel images.

Higher scores mean more novel. The detectors are those of k-NN distance (arXiv 2204.06507), Mahalanobis distance
(arXiv 1807.03888) and energy (arXiv 2010.03759).
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from franca.probes.knn import nearest_neighbors
from franca.probes.regression import fit_logistic

Floats = NDArray[np.float64]
NEIGHBOR = 50
"""The distance is that to the neighbor of this rank."""
RIDGE = 1e-3
"""Added to the variance in each direction, as a share of the mean variance: directions without any have no inverse."""
STRENGTH = 1.0
"""C of the logistic regression whose logits the energy is of."""
RECALL = 0.95
CHUNK = 1 << 25
"""Similarities held at a time, at most: 128 MiB."""


def neighbor_distance(train: Tensor, queries: Tensor) -> Tensor:
    """Return the Euclidean distance of each query (M,) to its neighbor of rank `NEIGHBOR`, at unit length."""
    train, k = normalize(train.float(), dim=1), min(NEIGHBOR, len(train))
    found = []
    for part in queries.split(max(1, CHUNK // len(train))):
        similarities = nearest_neighbors(train, normalize(part.float(), dim=1), k)[0][:, -1]
        found.append((2 - 2 * similarities).clamp(min=0).sqrt())
    return torch.cat(found)


def mahalanobis(train: Tensor, labels: Tensor, queries: Tensor) -> Tensor:
    """Return the squared Mahalanobis distance of each query (M,) to the nearest class mean, with one covariance.

    Args:
        train: (N, D) float.
        labels: (N,) int64, classes from 0 to K - 1, each of which occurs.
        queries: (M, D) float.
    """
    x, classes = train.double(), int(labels.max()) + 1
    counts = torch.bincount(labels, minlength=classes)[:, None]
    means = x.new_zeros(classes, x.shape[1]).index_add_(0, labels, x) / counts
    residual = x - means[labels]
    covariance = residual.T @ residual / len(x)
    variance = covariance.diagonal().mean().clamp(min=1e-12)
    covariance += RIDGE * variance * torch.eye(len(covariance), dtype=x.dtype, device=x.device)
    factor = torch.linalg.cholesky(covariance)
    white, centers = (torch.linalg.solve_triangular(factor, y.T, upper=False).T for y in (queries.double(), means))
    return torch.cdist(white, centers).square().min(dim=1).values


def energy(train: Tensor, labels: Tensor, queries: Tensor) -> Tensor:
    """Return the energy of each query (M,): -log sum exp of the logits of logistic regression."""
    targets = one_hot(labels).to(train.dtype)
    (probe,) = fit_logistic(train, targets, [STRENGTH])
    return -probe(queries).logsumexp(dim=1)


class Separation(NamedTuple):
    """How well scores separate novel from known images, in percent.

    Attributes:
        auroc: Area under the ROC curve.
        aupr: Average precision with novel images as positives.
        fpr95: Share of the novel images that pass for known at the threshold that 95 % of the known images pass.
    """

    auroc: float
    aupr: float
    fpr95: float


def separation(known: Floats, novel: Floats) -> Separation:
    """Return how well scores separate novel images (M,) from known ones (N,), of which there is at least one each."""
    both = np.concatenate([known, novel])
    # The Mann-Whitney statistic, in which ties count one half.
    above = rankdata(both)[len(known) :].sum() - len(novel) * (len(novel) + 1) / 2
    auroc = above / len(known) / len(novel)
    # One step of recall for each distinct score, so that the order of equal scores does not matter.
    values, inverse = np.unique(-both, return_inverse=True)
    positives = np.bincount(inverse[len(known) :], minlength=len(values))
    total = np.bincount(inverse, minlength=len(values)).cumsum()
    aupr = (positives.cumsum() / total * positives).sum() / len(novel)
    threshold = np.sort(known)[int(np.ceil(RECALL * len(known))) - 1]
    return Separation(100 * float(auroc), 100 * float(aupr), 100 * float((novel <= threshold).mean()))
