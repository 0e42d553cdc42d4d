import numpy as np
import pytest

from franca.data.masks import batch_masks, mask
from franca.params import Masks


def make_params(**changes: object) -> Masks:
    return Masks.model_validate(
        {"kind": "inverse_block", "cyclic": True, "image_share": 0.5, "ratio": (0.1, 0.65)} | changes
    )


@pytest.mark.parametrize("cyclic", [False, True])
@pytest.mark.parametrize("kind", ["inverse_block", "block", "random"])
def test_exactly_the_asked_number_of_patches(kind: str, cyclic: bool) -> None:
    params, rng = make_params(kind=kind, cyclic=cyclic), np.random.default_rng(0)
    for grid in (1, 2, 7):
        for masked in range(grid * grid + 1):
            assert mask((grid, grid), masked, params, rng).sum() == masked


def test_more_patches_than_there_are() -> None:
    for kind in ("inverse_block", "block", "random"):
        assert mask((3, 5), 20, make_params(kind=kind), np.random.default_rng(0)).all()


def test_several_blocks_cover_nearly_the_asked_number() -> None:
    params, rng = make_params(kind="multi_block", cyclic=False), np.random.default_rng(0)
    for grid, masked in (((16, 16), 100), ((8, 12), 30), ((4, 4), 8), ((37, 37), 800)):
        missing = np.array([masked - mask(grid, masked, params, rng).sum() for _ in range(50)])
        assert missing.min() >= 0 and np.median(missing) <= 1 and missing.max() <= 8
    for grid in ((1, 1), (2, 2), (1, 9)):
        assert mask(grid, 1, params, rng).sum() <= 1
    assert not mask((4, 4), 0, params, rng).any()


def test_single_patches_are_masked_anywhere() -> None:
    params, rng = make_params(kind="random", cyclic=False), np.random.default_rng(0)
    share = np.mean([mask((4, 4), 4, params, rng) for _ in range(1000)], axis=0)
    np.testing.assert_allclose(share, 0.25, atol=5 * np.sqrt(0.25 * 0.75 / 1000))


def test_a_cyclic_shift_lets_a_block_cross_the_edges() -> None:
    rng = np.random.default_rng(0)
    shifted = [mask((6, 6), 9, make_params(kind="block"), rng) for _ in range(50)]
    assert any(chosen[0].any() and chosen[-1].any() and not chosen[2:4].any() for chosen in shifted)


@pytest.mark.parametrize(("share", "masked"), [(0.0, 0), (0.5, 4), (1.0, 8), (0.1, 0)])
def test_the_asked_share_of_crops_is_masked(share: float, masked: int) -> None:
    masks = batch_masks(8, 4, make_params(image_share=share), np.random.default_rng(0))
    assert masks.shape == (8, 16) and masks.dtype == np.bool_
    assert masks.any(axis=1).sum() == masked


def test_ratios_rise_evenly_over_their_range() -> None:
    params = make_params(image_share=1.0, ratio=(0.2, 0.6))
    counts = np.sort(batch_masks(4, 20, params, np.random.default_rng(0)).sum(axis=1))
    for count, low in zip(counts, (80, 120, 160, 200), strict=True):
        assert low <= count <= low + 40
    fixed = batch_masks(4, 20, make_params(image_share=1.0, ratio=(0.5, 0.5)), np.random.default_rng(0))
    assert fixed.sum(axis=1).tolist() == [200] * 4


def test_masks_of_some_crops_are_those_of_the_whole_batch() -> None:
    whole, some = (
        batch_masks(16, 6, make_params(), np.random.default_rng(0), part) for part in (None, np.array([3, 9, 12]))
    )
    assert np.array_equal(some, whole[[3, 9, 12]])
