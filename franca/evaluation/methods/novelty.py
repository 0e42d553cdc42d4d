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

from franca.evaluation.methods.logistic import fit_logistic
from franca.evaluation.methods.neighbors import QUERIES, nearest
from franca.feature_files import BLOCK, blocks

Floats = NDArray[np.float64]
NEIGHBOR = 50
"""The distance is that to the neighbor of this rank."""
RIDGE = 1e-3
"""Added to the variance in each direction, as a share of the mean variance: directions without any have no inverse."""
STRENGTH = 1.0
"""C of the logistic regression whose logits the energy is of."""
RECALL = 0.95


def neighbor_distance(train: Tensor, queries: Tensor, device: torch.device) -> Tensor:
    """Return the Euclidean distance of each query (M,) to its neighbor of rank `NEIGHBOR`, at unit length."""
    k = min(NEIGHBOR, len(train))
    similarities = torch.cat([nearest(train, part, k, device)[0][:, -1] for part in queries.split(QUERIES)])
    return (2 - 2 * similarities).clamp(min=0).sqrt()


def mahalanobis(train: Tensor, labels: Tensor, queries: Tensor) -> Tensor:
    """Return the squared Mahalanobis distance of each query (M,) to the nearest class mean, with one covariance.

    Args:
        train: (N, D) float.
        labels: (N,) int64, classes from 0 to K - 1, each of which occurs, on the device that computes.
        queries: (M, D) float.
    """
    device, classes, width = labels.device, int(labels.max()) + 1, train.shape[1]
    means = torch.zeros(classes, width, dtype=torch.float64, device=device)
    for x, of in zip(blocks(train, device), labels.split(BLOCK), strict=True):
        means.index_add_(0, of, x.double())
    means /= torch.bincount(labels, minlength=classes)[:, None]
    covariance = torch.zeros(width, width, dtype=torch.float64, device=device)
    for x, of in zip(blocks(train, device), labels.split(BLOCK), strict=True):
        residual = x.double() - means[of]
        covariance += residual.T @ residual
    covariance /= len(train)
    variance = covariance.diagonal().mean().clamp(min=1e-12)
    covariance += RIDGE * variance * torch.eye(width, dtype=torch.float64, device=device)
    factor = torch.linalg.cholesky(covariance)
    centers = torch.linalg.solve_triangular(factor, means.T, upper=False).T
    found = []
    for x in blocks(queries, device):
        white = torch.linalg.solve_triangular(factor, x.double().T, upper=False).T
        found.append(torch.cdist(white, centers).square().min(dim=1).values)
    return torch.cat(found)


def energy(train: Tensor, labels: Tensor, queries: Tensor) -> Tensor:
    """Return the energy of each query (M,): -log sum exp of the logits of logistic regression.

    Arguments are as for `mahalanobis`.
    """
    (probe,) = fit_logistic(train, labels, int(labels.max()) + 1, [STRENGTH])
    return torch.cat([-probe(part).logsumexp(dim=1) for part in blocks(queries, labels.device)])


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
