"""RankMe: over how many dimensions features spread, a measure of quality that needs no labels."""

import torch
from torch import Tensor


def rankme(features: Tensor) -> float:
    """Return the effective rank of features (N, D), from 1 to D: exp of the entropy of their singular values.

    The formula is RankMe's (Garrido et al., arXiv 2210.02885, section 3, without its epsilon), which is that of the
    effective rank (Roy and Vetterli, EUSIPCO 2007). The features are centered first: otherwise an offset that all
    images share, as in a network with random weights, counts as the largest dimension.
    """
    if not len(features):
        return 1.0
    x = (features - features.mean(dim=0)).double()
    # The squares of the singular values are the eigenvalues of the smaller Gram matrix, which is far cheaper.
    gram = x @ x.T if x.shape[0] < x.shape[1] else x.T @ x
    values = torch.linalg.eigvalsh(gram)
    # Rounding leaves about 1e-16 of the largest eigenvalue in those that are 0; their roots would not be small.
    values = torch.where(values > 1e-12 * values[-1], values, 0).sqrt()
    return float(torch.special.entr(values / values.sum().clamp(min=1e-30)).sum().exp())
