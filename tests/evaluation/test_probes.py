import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from torch.nn.functional import one_hot

from franca.probes.regression import RIDGE, fit_logistic, fit_ridge


def classes(count: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Overlapping clouds on correlated axes of unlike scales, far from the origin."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 3
    x = torch.randn(count, width, generator=generator) + 0.7 * one_hot(labels, width).float()
    mix = torch.randn(width, width, generator=generator)
    return (x @ mix) * torch.logspace(-1, 1, width) + 5, labels


@pytest.mark.parametrize("width", [6, 30])
def test_logistic_regression_is_the_one_of_scikit_learn(width: int) -> None:
    x, labels = classes(600, width)
    strengths = [1.0, 0.01]
    maps = fit_logistic(x, one_hot(labels, 3).float(), strengths)
    standard = ((x - x.mean(0)) / x.std(0, unbiased=False)).numpy()
    for strength, fitted in zip(strengths, maps, strict=True):
        reference = LogisticRegression(C=strength, max_iter=5000, tol=1e-8).fit(standard, labels.numpy())
        expected = torch.from_numpy(reference.predict_proba(standard)).float()
        torch.testing.assert_close(fitted(x).softmax(1), expected, atol=4e-3, rtol=0)


def test_soft_targets_weigh_rows() -> None:
    """A row of weight 2 counts as the row twice, a soft row as its parts."""
    x, labels = classes(90, 4)
    hard = one_hot(labels, 3).float()
    soft = hard.clone()
    soft[0] = torch.tensor([0.5, 0.5, 0.0])
    parts = torch.cat([hard[1:], torch.tensor([[0.5, 0, 0], [0, 0.5, 0]])])
    one = fit_logistic(x, soft, [1.0])[0]
    other = fit_logistic(torch.cat([x[1:], x[:1], x[:1]]), parts, [1.0])[0]
    torch.testing.assert_close(one(x).softmax(1), other(x).softmax(1), atol=0.05, rtol=0)


def test_constant_features_do_no_harm() -> None:
    x, labels = classes(300, 6)
    padded = torch.cat([x, torch.full((300, 2), 3.0)], dim=1)
    plain, constant = (fit_logistic(part, one_hot(labels, 3).float(), [1.0])[0](part) for part in (x, padded))
    torch.testing.assert_close(plain.softmax(1), constant.softmax(1), atol=5e-3, rtol=0)
    assert fit_ridge(padded, x[:, :2])(padded).isfinite().all()


def test_ridge_is_the_one_of_scikit_learn() -> None:
    x, _ = classes(200, 8)
    targets = x[:, :2] * 3 + torch.randn(200, 2, generator=torch.Generator().manual_seed(1))
    standard = ((x - x.mean(0)) / x.std(0, unbiased=False)).double().numpy()
    expected = Ridge(alpha=RIDGE * 200).fit(standard, targets.double().numpy()).predict(standard)
    torch.testing.assert_close(fit_ridge(x, targets)(x), torch.from_numpy(expected).float(), rtol=1e-3, atol=1e-3)
