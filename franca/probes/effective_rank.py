"""RankMe: the number of dimensions that features fill, a measure of quality that needs no labels."""

import torch
from torch import Tensor


def rankme(features: Tensor) -> float:
    """Return the effective rank of features (N, D) float: exp of the entropy of their singular values, 1 to D.

    The formula is that of RankMe (Garrido et al., arXiv 2210.02885, section 3, without its epsilon) and of the
    effective rank (Roy and Vetterli, EUSIPCO 2007). The features are centered first: otherwise an offset that all
    images share, as in a network with random weights, counts as the largest dimension.
    """
    if not len(features):
        return 1.0
    x = (features - features.mean(dim=0)).double()
    # The squares of the singular values are the eigenvalues of the smaller Gram matrix: far cheaper than an SVD.
    gram = x @ x.T if x.shape[0] < x.shape[1] else x.T @ x
    values = torch.linalg.eigvalsh(gram)
    # Eigenvalues that should be 0 come out near 1e-16 of the largest: their square roots, 1e-8, would not be
    # negligible in the entropy of many dimensions.
    values = torch.where(values > 1e-12 * values[-1], values, 0).sqrt()
    return float(torch.special.entr(values / values.sum().clamp(min=1e-30)).sum().exp())
