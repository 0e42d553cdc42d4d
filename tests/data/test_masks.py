import numpy as np
import pytest
from numpy.typing import NDArray

from franca.data.views.masks import batch_masks, official_buffer, random_masks
from franca.params import Masks


def make_params(**changes: object) -> Masks:
    return Masks.model_validate(
        {"kind": "inverse_block", "cyclic": True, "image_share": 0.5, "ratio": (0.1, 0.65)} | changes
    )


def draw(grid: tuple[int, int], masked: int, count: int, seed: int = 0, **changes: object) -> NDArray[np.bool_]:
    """`count` masks (count, rows, columns) of `masked` patches each."""
    return random_masks(grid, np.full(count, masked), make_params(**changes), np.random.default_rng(seed))


@pytest.mark.parametrize("cyclic", [False, True])
@pytest.mark.parametrize("kind", ["inverse_block", "block", "random"])
def test_exactly_the_asked_number_of_patches(kind: str, cyclic: bool) -> None:
    params, rng = make_params(kind=kind, cyclic=cyclic), np.random.default_rng(0)
    for rows, columns in ((1, 1), (2, 2), (7, 7), (3, 8), (8, 3)):
        masked = np.arange(rows * columns + 1)
        masks = random_masks((rows, columns), masked, params, rng)
        assert masks.shape == (len(masked), rows, columns) and masks.dtype == np.bool_
        assert (masks.sum(axis=(1, 2)) == masked).all()
        assert random_masks((rows, columns), masked[:0], params, rng).shape == (0, rows, columns)


def test_more_patches_than_there_are() -> None:
    for kind in ("inverse_block", "block", "random"):
        assert draw((3, 5), 20, 2, kind=kind).all()


def test_blocks_are_rectangles_cut_at_their_end() -> None:
    for mask in draw((12, 9), 30, 50, kind="block", cyclic=False):
        height, width = (int(mask.any(axis=axis).sum()) for axis in (1, 0))
        top, left = (int(mask.any(axis=axis).argmax()) for axis in (1, 0))
        assert mask[top : top + height, left : left + width].ravel().tolist() == [True] * 30 + [False] * (
            height * width - 30
        )
        assert height * width - 30 < max(height, width)


def test_several_blocks_cover_nearly_the_asked_number() -> None:
    for grid, masked in (((16, 16), 100), ((8, 12), 30), ((4, 4), 8), ((37, 37), 800)):
        missing = masked - draw(grid, masked, 50, kind="multi_block", cyclic=False).sum(axis=(1, 2))
        assert missing.min() >= 0 and np.median(missing) <= 1 and missing.max() <= 8
    for grid in ((1, 1), (2, 2), (1, 9)):
        assert draw(grid, 1, 1, kind="multi_block", cyclic=False).sum() <= 1
    assert not draw((4, 4), 0, 1, kind="multi_block", cyclic=False).any()


def test_single_patches_are_masked_anywhere() -> None:
    share = draw((4, 4), 4, 1000, kind="random", cyclic=False).mean(axis=0)
    np.testing.assert_allclose(share, 0.25, atol=5 * np.sqrt(0.25 * 0.75 / 1000))


def test_a_cyclic_shift_lets_a_block_cross_the_edges() -> None:
    shifted = draw((6, 6), 9, 50, kind="block")
    assert any(chosen[0].any() and chosen[-1].any() and not chosen[2:4].any() for chosen in shifted)


@pytest.mark.parametrize(("share", "masked"), [(0.0, 0), (0.5, 4), (1.0, 8), (0.1, 0)])
def test_the_asked_share_of_crops_is_masked(share: float, masked: int) -> None:
    masks = batch_masks(4, 4, 4, make_params(image_share=share), np.random.default_rng(0))
    assert masks.shape == (8, 16) and masks.dtype == np.bool_
    assert masks.any(axis=1).sum() == masked


def test_ratios_rise_evenly_over_their_range() -> None:
    params = make_params(image_share=1.0, ratio=(0.2, 0.6))
    counts = np.sort(batch_masks(2, 2, 20, params, np.random.default_rng(0)).sum(axis=1))
    for count, low in zip(counts, (80, 120, 160, 200), strict=True):
        assert low <= count <= low + 40
    fixed = batch_masks(2, 2, 20, make_params(image_share=1.0, ratio=(0.5, 0.5)), np.random.default_rng(0))
    assert fixed.sum(axis=1).tolist() == [200] * 4


@pytest.mark.parametrize(
    "part", [slice(0, 4), slice(4, 12), slice(1, 3), slice(3, 10), slice(11, 12), slice(0, 12)], ids=str
)
def test_masks_of_some_images_are_those_of_the_whole_batch(part: slice) -> None:
    params = make_params(image_share=0.3)
    whole = batch_masks(12, 4, 6, params, np.random.default_rng(0))
    some = batch_masks(12, 4, 6, params, np.random.default_rng(0), part)
    assert np.array_equal(some.reshape(2, -1, 36), whole.reshape(2, 12, 36)[:, part])
    assert not np.array_equal(whole, batch_masks(12, 4, 6, params, np.random.default_rng(1)))


def counts_of_groups(images: int, group: int, **changes: object) -> NDArray[np.int64]:
    """Masked patches of the crops of each group of a batch, (groups, 2 group)."""
    masks = batch_masks(images, group, 16, make_params(**changes), np.random.default_rng(0))
    return masks.sum(axis=1).reshape(2, -1, group).swapaxes(0, 1).reshape(-1, 2 * group)


def test_ranks_have_as_many_masked_patches_within_a_few_percent() -> None:
    """Each step waits for the rank that has most. Dealt over the whole batch, they differ by up to a half."""
    counts = counts_of_groups(3072, 32)
    assert ((counts > 0).sum(axis=1) == 32).all()
    patches = counts.sum(axis=1)
    assert patches.max() < 1.02 * patches.mean() and patches.std() < 12
    ratios = np.sort(counts[counts > 0].reshape(96, 32), axis=1) / 256
    edges = np.linspace(0.1, 0.65, 33)
    assert (ratios > edges[:-1] - 1 / 256).all() and (ratios <= edges[1:]).all()
    assert (patches <= official_buffer(1, 32, 16, make_params())).all()
    assert official_buffer(96, 32, 16, make_params()) == 96 * official_buffer(1, 32, 16, make_params())


@pytest.mark.parametrize(("share", "of_group", "total"), [(0.3, (2, 3), 28), (0.05, (0, 1), 4), (0.5, (4, 4), 48)])
def test_a_share_that_no_group_can_have_is_that_of_the_batch(
    share: float, of_group: tuple[int, int], total: int
) -> None:
    masked = (counts_of_groups(48, 4, image_share=share) > 0).sum(axis=1)
    assert (masked.min(), masked.max()) == of_group and masked.sum() == total


def test_any_crop_of_a_group_may_be_masked() -> None:
    share = (counts_of_groups(4000, 4) > 0).mean(axis=0)
    np.testing.assert_allclose(share, 0.5, atol=5 * 0.5 / np.sqrt(1000))
