import math

import pytest
import torch
from torch.nn import functional as F

from franca.losses.contrastive import Keys, contrastive_loss, contrastive_term, gather_keys


def embeddings(images: int, seed: int) -> torch.Tensor:
    return torch.randn(1, 2 * images, 8, generator=torch.Generator().manual_seed(seed))


def test_equal_embeddings_give_the_log_of_the_batch() -> None:
    same = torch.ones(1, 12, 8)
    (keys,) = gather_keys([same])
    assert float(contrastive_loss(same, keys, 0.2)) == pytest.approx(math.log(6))


def test_orthogonal_images_give_the_closed_form() -> None:
    crops = torch.eye(8).repeat(1, 2, 1)
    (keys,) = gather_keys([crops])
    assert float(contrastive_loss(3 * crops, keys, 0.2)) == pytest.approx(math.log(1 + 7 * math.exp(-1 / 0.2)))


def test_each_crop_looks_for_the_other_crop_of_its_image() -> None:
    queries, teacher = embeddings(5, 0), embeddings(5, 1)
    first, second = F.normalize(queries[0], dim=1).chunk(2)
    one, two = F.normalize(teacher[0], dim=1).chunk(2)
    target = torch.arange(5)
    expected = (F.cross_entropy(first @ two.T / 0.1, target) + F.cross_entropy(second @ one.T / 0.1, target)) / 2
    (keys,) = gather_keys([teacher])
    torch.testing.assert_close(contrastive_loss(queries, keys, 0.1), expected[None])


def test_microbatches_have_the_keys_of_the_whole_batch() -> None:
    queries, teacher = embeddings(6, 0), embeddings(6, 1)
    (whole,) = gather_keys([teacher])
    parts = [x.unflatten(1, (2, 3, 2)).unbind(2) for x in (queries, teacher)]
    asked, given = ([part.flatten(1, 2) for part in own] for own in parts)
    keys = gather_keys(given)
    assert [part.first for part in keys] == [0, 2, 4]
    losses = [contrastive_loss(own, part, 0.2) for own, part in zip(asked, keys, strict=True)]
    torch.testing.assert_close(torch.stack(losses).mean(dim=0), contrastive_loss(queries, whole, 0.2))


def test_gradients_reach_the_queries_alone() -> None:
    queries, teacher = embeddings(4, 0).requires_grad_(), embeddings(4, 1)
    (keys,) = gather_keys([teacher])
    contrastive_loss(queries, keys, 0.2).backward()
    assert queries.grad is not None and queries.grad.abs().sum() > 0
    assert isinstance(keys, Keys) and not keys.rows.requires_grad


def test_the_term_is_the_mean_of_its_levels() -> None:
    queries, teacher = ([embeddings(5, seed + level) for level in range(2)] for seed in (0, 2))
    (keys,) = gather_keys([torch.cat(teacher)])
    term = contrastive_term(torch.cat(queries), keys, 0.2, (4, 8))
    single = [contrastive_loss(own, gather_keys([given])[0], 0.2) for own, given in zip(queries, teacher, strict=True)]
    torch.testing.assert_close(term.value, torch.cat(single).mean())
    assert list(term.metrics) == ["contrastive", "contrastive/level4", "contrastive/level8"]
    torch.testing.assert_close(term.metrics["contrastive/level4"].value, single[0][0])
