"""Patch features of large images, in windows of the size that a model was trained at."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from franca.evaluation.features import FeatureExtractor
from franca.evaluation.segmenter import _window_starts, patch_features
from franca.models import Features
from tests.evaluation.test_benchmarks import COLORS

WINDOWED = replace(COLORS, learned=True)


@pytest.fixture
def image() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (72, 136, 3), dtype=np.uint8))


def test_windows_cover_the_image_and_overlap_by_a_third() -> None:
    assert _window_starts(4, 4) == [0]
    assert _window_starts(13, 4) == [0, 3, 6, 9]
    assert _window_starts(37, 37) == [0]
    for window in (1, 2, 3, 4, 7, 37):
        for length in range(window, 5 * window):
            starts = _window_starts(length, window)
            steps = np.diff(starts)
            assert (starts[0], starts[-1]) == (0, length - window)
            assert (steps > 0).all() and (steps <= -(-2 * window // 3)).all()


def test_features_of_a_patch_alone_do_not_depend_on_windows(image: Image.Image) -> None:
    whole, parts = patch_features(COLORS, image, 72), patch_features(WINDOWED, image, 72)
    assert whole.shape == (9, 17, 3)
    torch.testing.assert_close(parts, whole)


def test_overlapping_windows_are_averaged(image: Image.Image) -> None:
    sizes = []

    def columns(images: Tensor) -> Features:
        """The column of each patch inside its window."""
        sizes.append(images.shape[2:])
        places = torch.arange(4.0).expand(len(images), 4, 4)[..., None]
        return Features(torch.zeros(len(images), 1), places)

    found = patch_features(FeatureExtractor("columns", columns, 32, 8, learned=True), image, 32)
    assert set(sizes) == {(32, 32)}
    assert found.shape == (4, 8, 1)
    # Windows of 4 patches start at columns 0, 2 and 4.
    assert found[0, :, 0].tolist() == [0, 1, 1, 2, 1, 2, 2, 3]


def test_a_small_image_grows_to_one_window(image: Image.Image) -> None:
    assert patch_features(WINDOWED, image.resize((10, 8)), 16).shape == (4, 5, 3)
    assert patch_features(COLORS, image.resize((10, 8)), 16).shape == (2, 2, 3)


def test_many_windows_go_through_in_parts(image: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    at_once = patch_features(WINDOWED, image, 72)
    monkeypatch.setattr("franca.evaluation.segmenter.MAX_TOKENS", 1)
    torch.testing.assert_close(patch_features(WINDOWED, image, 72), at_once)
