import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch.nn.functional import one_hot

from franca.evaluation.methods import logistic
from franca.evaluation.methods.logistic import fit_logistic, predict_classes
from tests.evaluation.test_probes import classes


@pytest.mark.parametrize(("width", "whitened"), [(6, 1024), (30, 1024), (30, 8)])
def test_it_is_the_one_of_scikit_learn(width: int, whitened: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logistic, "MAX_WHITENED", whitened)
    x, labels = classes(600, width)
    strengths = [1.0, 0.01]
    standard = ((x - x.mean(0)) / x.std(0, unbiased=False)).numpy()
    for targets in (labels, one_hot(labels, 3).float()):
        maps = fit_logistic(x, targets, 3, strengths)
        for strength, fitted in zip(strengths, maps, strict=True):
            reference = LogisticRegression(C=strength, max_iter=5000, tol=1e-8).fit(standard, labels.numpy())
            expected = torch.from_numpy(reference.predict_proba(standard)).float()
            torch.testing.assert_close(fitted(x).softmax(1), expected, atol=4e-3, rtol=0)


def test_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    x, labels = classes(200, 6)
    whole = fit_logistic(x, labels, 3, [1.0])[0]
    monkeypatch.setattr(logistic, "blocks", lambda features, device: features.split(17))
    parts = fit_logistic(x, labels, 3, [1.0])[0]
    torch.testing.assert_close(parts(x).softmax(1), whole(x).softmax(1), atol=1e-3, rtol=0)
    assert torch.equal(predict_classes(parts, x), parts(x).argmax(1))


def test_a_class_without_images_is_never_predicted() -> None:
    x, labels = classes(90, 4)
    assert 3 not in predict_classes(fit_logistic(x, labels, 4, [1.0])[0], x)


def test_soft_targets_weigh_rows() -> None:
    """A row of weight 2 counts as the row twice, a soft row as its parts."""
    x, labels = classes(90, 4)
    hard = one_hot(labels, 3).float()
    soft = hard.clone()
    soft[0] = torch.tensor([0.5, 0.5, 0.0])
    parts = torch.cat([hard[1:], torch.tensor([[0.5, 0, 0], [0, 0.5, 0]])])
    one = fit_logistic(x, soft, 3, [1.0])[0]
    other = fit_logistic(torch.cat([x[1:], x[:1], x[:1]]), parts, 3, [1.0])[0]
    torch.testing.assert_close(one(x).softmax(1), other(x).softmax(1), atol=0.05, rtol=0)


def test_constant_features_do_no_harm() -> None:
    x, labels = classes(300, 6)
    padded = torch.cat([x, torch.full((300, 2), 3.0)], dim=1)
    plain, constant = (fit_logistic(part, labels, 3, [1.0])[0](part) for part in (x, padded))
    torch.testing.assert_close(plain.softmax(1), constant.softmax(1), atol=5e-3, rtol=0)
