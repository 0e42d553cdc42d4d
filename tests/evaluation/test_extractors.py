import pytest
import torch

from franca.evaluation import extractors
from franca.evaluation.extractors import color_histogram, low_precision, model_extractor, raw_pixels
from franca.models import random_model
from tests.conftest import MakeParams

CPU = torch.device("cpu")


def test_histogram_of_a_known_image() -> None:
    image = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    image[:, 0, :, 8:] = 255
    image[:, 2, :, 8:] = 32
    extractor = color_histogram(16, 8, CPU)
    assert extractor.native is not None
    histogram = extractor.native(image)
    assert histogram.shape == (1, 512)
    filled = {int(index): histogram[0, index].item() for index in histogram[0].nonzero()}
    assert filled == {0: pytest.approx(0.5**0.5), 7 * 64 + 1: pytest.approx(0.5**0.5)}


def test_histograms_in_a_batch_are_those_of_each_image() -> None:
    images = torch.randint(0, 256, (5, 3, 24, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    native = color_histogram(32, 8, CPU).native
    assert native is not None
    whole = native(images)
    assert torch.equal(whole, torch.cat([native(image[None]) for image in images]))
    torch.testing.assert_close(whole.square().sum(1), torch.ones(5))


def test_patch_colors() -> None:
    image = torch.zeros(1, 3, 8, 16, dtype=torch.uint8)
    image[0, 1, :, 8:12] = 255
    patches = color_histogram(16, 8, CPU).embed(image).patches
    assert patches.shape == (1, 1, 2, 6)
    assert patches[0, 0, 0].tolist() == [0] * 6
    torch.testing.assert_close(patches[0, 0, 1], torch.tensor([0, 0.5, 0, 0, 0.5, 0]))


def test_raw_pixels_are_standardized_and_cut_into_patches() -> None:
    images = torch.randint(0, 256, (2, 3, 16, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    features = raw_pixels([0.5, 0.4, 0.3], [0.1, 0.2, 0.4], 16, 8, CPU).embed(images)
    expected = (images / 255 - torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1)) / torch.tensor([0.1, 0.2, 0.4]).view(
        3, 1, 1
    )
    torch.testing.assert_close(features.pooled, expected.flatten(1))
    torch.testing.assert_close(features.patches[1, 1, 2], expected[1, :, 8:16, 16:24].flatten())


def test_raw_pixels_of_large_images_stay_small() -> None:
    images = torch.full((1, 3, 224, 224), 255, dtype=torch.uint8)
    features = raw_pixels([0.0] * 3, [1.0] * 3, 224, 14, CPU).embed(images)
    torch.testing.assert_close(features.pooled, torch.ones(1, 3 * 32 * 32))
    assert features.patches.shape == (1, 16, 16, 3 * 14 * 14)


def test_networks_run_in_bfloat16_on_gpus_only(tiny_params: MakeParams, monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model(tiny_params().base)
    images = torch.randint(256, (3, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    extractor = model_extractor("model", model, CPU)
    assert extractor.keys is not None
    whole = [*extractor.embed(images), extractor.keys(images)]
    assert all(torch.equal(part, same) for part, same in zip(whole, model(images), strict=False))
    assert not low_precision(CPU)._enabled
    monkeypatch.setattr(extractors, "low_precision", lambda device: torch.autocast("cpu", torch.bfloat16))
    for part, rounded in zip(whole, [*extractor.embed(images), extractor.keys(images)], strict=True):
        assert rounded.dtype == torch.float32 and not torch.equal(part, rounded)
        assert (part - rounded).norm() < 0.02 * part.norm()
