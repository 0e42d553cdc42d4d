"""Case 12: statistics of masks."""

import re
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import label

from franca.data.views import masks as module
from franca.data.views.masks import batch_masks, random_masks
from franca.params import Masks
from tests.conformance.conftest import Case

SAMPLES = 1500
BATCHES = 40
STANDARD_ERRORS = 5


def make_params(**values: Any) -> Masks:
    return Masks.model_validate({"kind": "block", "cyclic": False, "image_share": 0.5, "ratio": (0.1, 0.65)} | values)


def sampled(grid: list[int], masked: int, kind: str, cyclic: bool = False) -> NDArray[np.bool_]:
    """Masks (SAMPLES, rows, columns) of one setting."""
    params, rng = make_params(kind=kind, cyclic=cyclic), np.random.default_rng(0)
    return random_masks((grid[0], grid[1]), np.full(SAMPLES, masked), params, rng)


@pytest.mark.case("12_masking")
def test_counts_shapes_frequencies_and_extents(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    for row in case.json()["rows"]:
        monkeypatch.setattr(module, "ASPECT", (row["min_aspect"], row["max_aspect"]))
        masks = sampled(row["grid"], row["requested"], row["strategy"], row["roll"])
        counts = masks.sum(axis=(1, 2))
        assert (counts.min(), counts.max()) == (row["count_min"], row["count_max"])
        assert row["count_exact"] == (counts == row["requested"]).all()
        inside = masks if row["strategy"] == "block" else ~masks
        pieces = [_pieces_on_torus(piece) for piece in inside[:5]]
        assert min(pieces) >= row["block_components_on_torus_min"]
        assert max(pieces) <= row["block_components_on_torus_max"]

        frequency = row["frequency"]
        expected = np.array(frequency.get("map", frequency["mean"]))
        _check_means(case, f"{row['strategy']} {row['requested']}", masks, expected, frequency["masks"])
        for name, axis in (("height", 2), ("width", 1)) if "block_bounding_box" in row else ():
            box = row["block_bounding_box"][name]
            extent = inside.any(axis=axis).sum(axis=1)
            assert extent.min() >= box["min"] - 1 and extent.max() <= box["max"] + 1
            error = extent.std() * np.sqrt(1 / SAMPLES + 1 / row["masks"]) + 1e-9
            assert abs(extent.mean() - box["mean"]) <= STANDARD_ERRORS * error


@pytest.mark.case("12_masking")
def test_several_blocks_and_how_many_patches_they_miss(case: Case) -> None:
    theirs = _masks_per_setting(case)
    for row in case.json()["legacy_non_block_generator"]:
        counts = sampled(row["grid"], row["requested"], "multi_block").sum(axis=(1, 2))
        assert counts.max() == row["count_max"]
        error = counts.std() * np.sqrt(1 / SAMPLES + 1 / theirs)
        assert abs(counts.mean() - row["count_mean"]) <= STANDARD_ERRORS * error
        exact = (counts == row["requested"])[:, None]
        name = f"multi_block {row['requested']}"
        _check_means(case, name, exact, np.array([row["share_exact"]]), theirs)
        _check_means(case, name, (counts < row["count_min"])[:, None], np.zeros(1), theirs)


@pytest.mark.case("12_masking")
def test_few_patches_all_and_more_than_there_are(case: Case) -> None:
    rows, columns = max((row["grid"] for row in case.json()["rows"]), key=np.prod)
    rng = np.random.default_rng(0)
    for kind, counts in case.json()["edge_requests_masked_count"].items():
        for requested, masked in counts.items():
            params = make_params(kind=kind, cyclic=True)
            assert random_masks((rows, columns), np.array([int(requested)]), params, rng).sum() == masked


@pytest.mark.case("12_masking")
def test_ratios_spread_over_the_masked_crops_of_a_group(case: Case) -> None:
    """A group is what the official code takes for the batch of a GPU."""
    for row in case.json()["collate"]:
        side = int(row["tokens"] ** 0.5)
        params = make_params(image_share=row["mask_probability"], ratio=row["ratio_range"])
        rng = np.random.default_rng(0)
        images = row["crops"] // 2
        batches = [batch_masks(images, images, side, params, rng) for _ in range(BATCHES)]
        counts = np.sort(np.stack([masks.sum(axis=1) for masks in batches]), axis=1)
        masked = row["masked_crops"][0]
        assert (counts[:, :-masked] == 0).all()
        spread = row["sorted_count_per_masked_crop"]
        assert (counts[:, -masked:] >= np.array(spread["min"])).all()
        assert (counts[:, -masked:] <= np.array(spread["max"]) + 1).all()
        totals = counts.sum(axis=1)
        assert totals.max() <= row["upperbound"][0]
        # The official sample is no smaller than ours, so that its own error at most doubles the variance.
        allowed = STANDARD_ERRORS * np.sqrt(2 / BATCHES)
        assert abs(totals.mean() - row["n_masked_mean"]) <= allowed * totals.std()
        assert totals.min() <= row["n_masked_max"] and totals.max() >= row["n_masked_min"]
        means = counts[:, -masked:].mean(axis=0)
        errors = counts[:, -masked:].std(axis=0) + 1
        assert (np.abs(means - np.array(spread["mean"])) <= allowed * errors).all()
        # Each crop is masked as often as any other.
        share = np.stack([masks.any(axis=1) for masks in batches]).mean(axis=0)
        assert (np.abs(share - masked / row["crops"]) <= STANDARD_ERRORS * 0.5 / np.sqrt(BATCHES)).all()


def _masks_per_setting(case: Case) -> int:
    match = re.search(r"statistics over (\d+) masks per setting", case.meaning())
    assert match
    return int(match[1])


def _pieces_on_torus(inside: NDArray[np.bool_]) -> int:
    """Connected components where edges wrap around: as many as in the shift that cuts fewest of them."""
    height, width = inside.shape
    shifts = ((rows, columns) for rows in range(height) for columns in range(width))
    return min(int(label(np.roll(inside, shift, axis=(0, 1)))[1]) for shift in shifts)


def _check_means(case: Case, name: str, masks: NDArray[np.bool_], expected: NDArray[Any], theirs: int) -> None:
    """The share of masks in which each place is masked, within the sampling error of both samples."""
    share = masks.mean(axis=0)
    spread = np.sqrt(np.clip(expected * (1 - expected), 1 / theirs, None))
    allowed = STANDARD_ERRORS * spread * np.sqrt(1 / SAMPLES + 1 / theirs)
    worst = float((np.abs(share - expected) / allowed).max())
    case.note(worst, name)
    assert worst <= 1, f"{name}: {worst:.2f} of the sampling error"
