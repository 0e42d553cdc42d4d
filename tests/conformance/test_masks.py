"""Case 12: statistics of masks.

Not here: the older generator of several small blocks (`legacy_non_block_generator`), which the product does not have,
and requests of more patches than there are, which its ratios cannot make.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import label

from franca.data.masks import batch_masks, mask
from franca.params import Masks
from tests.conformance.conftest import Case

SAMPLES = 1500
BATCHES = 40
STANDARD_ERRORS = 5


def make_params(**values: Any) -> Masks:
    return Masks.model_validate({"kind": "block", "cyclic": False, "image_share": 0.5, "ratio": (0.1, 0.65)} | values)


def sampled(row: dict[str, Any]) -> NDArray[np.bool_]:
    """Masks (SAMPLES, grid, grid) of one setting."""
    params = make_params(kind=row["strategy"], cyclic=row["roll"])
    rng = np.random.default_rng(0)
    side = row["grid"][0]
    return np.stack([mask(side, row["requested"], params, rng) for _ in range(SAMPLES)])


@pytest.mark.case("12_masking")
def test_counts_shapes_and_frequencies(case: Case) -> None:
    for row in _square(case.json()["rows"]):
        masks = sampled(row)
        counts = masks.sum(axis=(1, 2))
        assert counts.min() == row["count_min"] and counts.max() == row["count_max"]
        inside = masks if row["strategy"] == "block" else ~masks
        assert {_pieces_on_torus(piece) for piece in inside[:5]} == {1}

        frequency = row["frequency"]
        expected = np.array(frequency.get("map", frequency["mean"]))
        _check_means(case, f"{row['strategy']} {row['requested']}", masks, expected, frequency["masks"])


@pytest.mark.case("12_masking")
def test_extent_of_blocks(case: Case) -> None:
    for row in _square(case.json()["rows"]):
        if "block_bounding_box" not in row:
            continue
        masks = sampled(row)
        inside = masks if row["strategy"] == "block" else ~masks
        for name, axis in (("height", 2), ("width", 1)):
            box = row["block_bounding_box"][name]
            extent = inside.any(axis=axis).sum(axis=1)
            assert extent.min() >= box["min"] - 1 and extent.max() <= box["max"] + 1
            error = extent.std() * np.sqrt(1 / SAMPLES + 1 / row["masks"]) + 1e-9
            assert abs(extent.mean() - box["mean"]) <= STANDARD_ERRORS * error


@pytest.mark.case("12_masking")
def test_few_and_nearly_all_patches(case: Case) -> None:
    side = max(row["grid"][0] for row in case.json()["rows"])
    rng = np.random.default_rng(0)
    for kind, counts in case.json()["edge_requests_masked_count"].items():
        for requested, masked in counts.items():
            if int(requested) <= side * side:
                assert mask(side, int(requested), make_params(kind=kind, cyclic=True), rng).sum() == masked


@pytest.mark.case("12_masking")
def test_ratios_spread_over_the_masked_crops_of_a_batch(case: Case) -> None:
    for row in case.json()["collate"]:
        side = int(row["tokens"] ** 0.5)
        params = make_params(image_share=row["mask_probability"], ratio=row["ratio_range"])
        rng = np.random.default_rng(0)
        batches = [batch_masks(row["crops"], side, params, rng) for _ in range(BATCHES)]
        counts = np.sort(np.stack([masks.sum(axis=1) for masks in batches]), axis=1)
        masked = row["masked_crops"][0]
        assert (counts[:, :-masked] == 0).all()
        spread = row["sorted_count_per_masked_crop"]
        assert (counts[:, -masked:] >= np.array(spread["min"])).all()
        assert (counts[:, -masked:] <= np.array(spread["max"]) + 1).all()
        assert counts.sum(axis=1).max() <= row["upperbound"][0]
        means = counts[:, -masked:].mean(axis=0)
        errors = (counts[:, -masked:].std(axis=0) + 1) / np.sqrt(BATCHES)
        # The official sample is no smaller than ours, so that its own error at most doubles the variance.
        assert (np.abs(means - np.array(spread["mean"])) <= STANDARD_ERRORS * np.sqrt(2) * errors).all()
        # Each crop is masked as often as any other.
        share = np.stack([masks.any(axis=1) for masks in batches]).mean(axis=0)
        assert (np.abs(share - masked / row["crops"]) <= STANDARD_ERRORS * 0.5 / np.sqrt(BATCHES)).all()


def _square(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for row in rows:
        if row["grid"][0] == row["grid"][1]:
            yield row


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
