from pathlib import Path

import numpy as np
import pytest
import torch

from franca.evaluation.benchmarks import corruptions
from franca.evaluation.features import FeatureExtractor, extract_all
from franca.evaluation.methods.corruptions import CORRUPTIONS, corrupt
from franca.models import Features
from tests.conftest import MakeParams
from tests.evaluation.conftest import MakeStore


def make_images(side: int = 32) -> torch.Tensor:
    """Smooth images with an edge, colored."""
    ramp = torch.linspace(40, 200, side).expand(3, 3, side, side).clone()
    ramp[:, 1] = ramp[:, 1].transpose(1, 2)
    ramp[:, :, : side // 2, : side // 3] = torch.tensor([230, 20, 90]).view(3, 1, 1)
    return ramp.to(torch.uint8)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_each_changes_images_more_with_the_level_and_the_same_again(name: str) -> None:
    images = make_images(64)
    mild, strong = (corrupt(name, images, level) for level in (1, 5))
    assert mild.shape == strong.shape == images.shape and mild.dtype == torch.uint8
    errors = [(found.float() - images.float()).abs().mean() for found in (mild, strong)]
    assert errors[0] > 0 and (errors[0] < errors[1] or name in ("elastic_transform", "glass_blur"))
    torch.manual_seed(3)
    np.random.seed(3)
    assert torch.equal(corrupt(name, images, 5), strong)
    assert corrupt(name, images[..., :8, :8].contiguous(), 5).shape == (3, 3, 8, 8)


def test_noise_has_the_spread_of_the_paper() -> None:
    gray = torch.full((4, 3, 64, 64), 128, dtype=torch.uint8)
    noise = corrupt("gaussian_noise", gray, 1).float() / 255 - 128 / 255
    assert float(noise.std()) == pytest.approx(0.08, rel=0.02) and abs(float(noise.mean())) < 0.002
    shot = corrupt("shot_noise", gray, 1).float() / 255
    assert float(shot.std()) == pytest.approx((128 / 255 / 60) ** 0.5, rel=0.03)
    impulse = corrupt("impulse_noise", gray, 5)
    assert float((impulse == 0).float().mean()) == pytest.approx(0.135, abs=0.01)
    assert float((impulse == 255).float().mean()) == pytest.approx(0.135, abs=0.01)


@pytest.mark.parametrize(
    "name", ["defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "elastic_transform", "contrast"]
)
def test_an_even_image_stays(name: str) -> None:
    even = torch.full((2, 3, 32, 32), 77, dtype=torch.uint8)
    assert (corrupt(name, even, 5).int() - 77).abs().max() <= 1


def test_simple_ones_by_hand() -> None:
    images = torch.tensor([[100, 200], [0, 255]], dtype=torch.uint8).view(1, 1, 2, 2).expand(1, 3, 2, 2).contiguous()
    mean = 555 / 4
    assert corrupt("contrast", images, 1)[0, 0].flatten().tolist() == [
        round((value - mean) * 0.4 + mean) for value in (100, 200, 0, 255)
    ]
    assert corrupt("brightness", images, 2)[0, 0].flatten().tolist() == [151, 251, 51, 255]
    red = torch.tensor([200, 100, 0], dtype=torch.uint8).view(1, 3, 1, 1)
    assert corrupt("brightness", red, 1).flatten().tolist() == [226, 113, 0]
    blocks = corrupt("pixelate", make_images(64), 5)
    assert torch.equal(blocks[..., ::4, ::4].repeat_interleave(4, 2).repeat_interleave(4, 3), blocks)


def test_colors_survive_some_corruptions_and_noise_knows_nothing(
    make_store: MakeStore, tiny_params: MakeParams, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = tiny_params({"evaluate.knn_k": 5})
    monkeypatch.setattr(corruptions, "MAX_IMAGES", 6)

    def color(images: torch.Tensor) -> Features:
        mean = images.float().mean((2, 3))
        return Features(mean - mean.mean(1, keepdim=True), torch.zeros(len(images), 4, 4, 1))

    def nothing(images: torch.Tensor) -> Features:
        return Features(torch.ones(len(images), 2), torch.zeros(len(images), 4, 4, 1))

    extractors = [FeatureExtractor("color", color, 32, 8), FeatureExtractor("nothing", nothing, 32, 8)]
    data = extract_all(extractors, make_store(tmp_path))
    color_scores, chance = (
        {(s.split, s.metric): s for s in corruptions.run(extractor, data[extractor.name], params).measurements}
        for extractor in extractors
    )
    assert {metric for _, metric in color_scores} == {"top1", "top1_clean", *(f"top1_{name}" for name in CORRUPTIONS)}
    for split in ("val", "test"):
        assert color_scores[split, "top1_clean"].value == color_scores[split, "top1_contrast"].value == 100
        assert {score.value for (part, _), score in chance.items() if part == split} == {
            chance[split, "top1_clean"].value
        }
        mean = np.mean([color_scores[split, f"top1_{name}"].value for name in CORRUPTIONS])
        assert color_scores[split, "top1"].value == pytest.approx(mean, abs=1e-3)
        assert color_scores[split, "top1"].n == 6
