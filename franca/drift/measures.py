"""Do two samples of vectors come from one distribution? Three tests that see different kinds of shifts.

Each gives a p-value: how often samples of one distribution would differ at least as much. All three are valid for any
distribution and any number of dimensions, so `compare` raises false alarms at the rate that it is asked for.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from scipy.stats import betabinom, binomtest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

Vectors = NDArray[np.float32]

MIN_IMAGES = 20
"""Images on each side, at least: of fewer, no test can say anything at a rate of 1 %."""
PERMUTATIONS = 999
SCALES = (1 / 16, 1 / 4, 1)
"""Widths of the kernels in squared median distances. The narrow ones see classes that are missing."""
NEIGHBORS = 5
NOVEL_SHARE = 0.01
"""Share of training images that are beyond the distance from which an image counts as out of distribution."""
TESTS = 3
_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Mmd:
    """Maximum mean discrepancy (Gretton et al., 2012, JMLR 13), with the mean of Gaussian kernels.

    Attributes:
        value: The biased estimate of MMD^2; 0 for equal samples.
        chance: The same for samples of one distribution of these sizes: mean over the permutations.
        p: p-value of the permutation test.
    """

    value: float
    chance: float
    p: float


@dataclass(frozen=True)
class DomainClassifier:
    """How often a linear classifier tells on which side an image is that it has not seen.

    Attributes:
        accuracy: Share of right answers; chance is 0.5.
        low: Lower end of its 95 % interval.
        high: Upper end.
        p: p-value of the one-sided binomial test against chance.
    """

    accuracy: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class Novelty:
    """New images that are far from all training images.

    Attributes:
        share: Share of the new images beyond `threshold`; about `NOVEL_SHARE` without drift.
        threshold: Distance to the k-th nearest training image that `NOVEL_SHARE` of other training images exceed.
        p: p-value: how often as many of them would be beyond it without drift.
        distances: (M,) Distance of each new image.
    """

    share: float
    threshold: float
    p: float
    distances: NDArray[np.float64]


@dataclass(frozen=True)
class Comparison:
    """The three tests, and what they say together."""

    mmd: Mmd
    classifier: DomainClassifier
    novelty: Novelty
    alpha: float

    @property
    def drifted(self) -> bool:
        """Whether one of the tests rejects at a third of `alpha`, so that all together do so at `alpha` at most."""
        return min(self.mmd.p, self.classifier.p, self.novelty.p) <= self.alpha / TESTS


def compare(reference: Vectors, new: Vectors, alpha: float, seed: int = 0) -> Comparison:
    """Return the tests of two samples.

    Args:
        reference: (N, D) vectors of training images.
        new: (M, D) vectors of new images.
        alpha: Rate of false alarms that is accepted.
        seed: Of permutations and halves.
    """
    random = np.random.default_rng(seed)
    return Comparison(
        mmd(reference, new, random), classify(reference, new, random), novelty(reference, new, random), alpha
    )


def mmd(reference: Vectors, new: Vectors, random: np.random.Generator) -> Mmd:
    """Return MMD^2 and its permutation test. Takes the arguments of `compare`."""
    pooled = np.concatenate([reference, new])
    squares = cdist(pooled, pooled, "sqeuclidean")
    # A function of the pooled sample, which permutations do not change.
    median = max(np.median(squares[np.triu_indices(len(pooled), 1)]), np.finfo(float).tiny)
    kernel = np.zeros(squares.shape, np.float32)
    for scale in SCALES:
        kernel += np.exp(-squares / (scale * median)) / len(SCALES)
    # MMD^2 = w' K w, with 1/N for one side and -1/M for the other.
    weights = np.concatenate([np.full(len(reference), 1 / len(reference)), np.full(len(new), -1 / len(new))])
    columns = np.stack([weights, *(random.permutation(weights) for _ in range(PERMUTATIONS))], axis=1)
    values = np.einsum("ij,ij->j", columns, kernel @ columns.astype(np.float32))
    # Rounding must not decide about ties.
    rank = 1 + int((values[1:] >= values[0] - 1e-7).sum())
    return Mmd(float(values[0]), float(values[1:].mean()), rank / (PERMUTATIONS + 1))


def classify(reference: Vectors, new: Vectors, random: np.random.Generator) -> DomainClassifier:
    """Fit a logistic regression to one half of both sides, and return its accuracy on the other half.

    Both sides have the same number of images, so that chance is 0.5. Takes the arguments of `compare`.
    """
    count = min(len(reference), len(new))
    first, second = (side[random.permutation(len(side))[:count]] for side in (reference, new))
    fitted, half = count // 2, count - count // 2
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
    model.fit(np.concatenate([first[:fitted], second[:fitted]]), np.repeat([0, 1], fitted))
    answers = model.predict(np.concatenate([first[fitted:], second[fitted:]]))
    right = int((answers == np.repeat([0, 1], half)).sum())
    test = binomtest(right, 2 * half, 0.5, alternative="greater")
    interval = binomtest(right, 2 * half).proportion_ci(_CONFIDENCE, method="wilson")
    return DomainClassifier(right / (2 * half), float(interval.low), float(interval.high), float(test.pvalue))


def novelty(reference: Vectors, new: Vectors, random: np.random.Generator) -> Novelty:
    """Return how many new images are far from one half of the reference, by what is far for the other half.

    Without drift, the other half and the new images are as far from the first. Takes the arguments of `compare`.
    """
    order = random.permutation(len(reference))
    known, others = reference[order[: len(reference) // 2]], reference[order[len(reference) // 2 :]]
    usual, found = kth_distance(known, others), kth_distance(known, new)
    beyond = int(NOVEL_SHARE * len(others))  # so many of the others are beyond the threshold
    threshold = np.sort(usual)[len(others) - beyond - 1]
    count = int((found > threshold).sum())
    # The true share beyond this order statistic has a beta distribution, whatever that of the distances is.
    p = betabinom.sf(count - 1, len(new), beyond + 1, len(others) - beyond)
    return Novelty(count / len(new), float(threshold), float(p), found)


def kth_distance(known: Vectors, queries: Vectors) -> NDArray[np.float64]:
    """Return the distance of each query to its `NEIGHBORS`-th nearest vector of `known`, which has none of them."""
    k = min(NEIGHBORS, len(known))
    return np.asarray(np.partition(cdist(queries, known), k - 1, axis=1)[:, k - 1])
