from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import linalg

from franca.data.ingest.prepare import prepare_dataset
from franca.data.store.prepared import Store
from franca.evaluation.benchmarks import token_cut
from franca.evaluation.extractors import last_keys
from franca.evaluation.features import FeatureExtractor, extract_all
from franca.evaluation.methods.token_cut import (
    Box,
    affinity,
    find_object,
    iou,
    is_located,
    mask_boxes,
    second_eigenvector,
)
from franca.models import Features, FrancaModel, random_model
from franca.params import Dataset
from tests.conftest import MakeParams
from tests.evaluation.conftest import MakeStore


def test_two_blocks_are_cut_between_them() -> None:
    weights = np.full((10, 10), 1e-5)
    weights[:4, :4] = weights[4:, 4:] = 1
    vector = second_eigenvector(weights)
    above = vector > vector.mean()
    assert len(set(above[:4])) == len(set(above[4:])) == 1 and above[0] != above[9]


@pytest.mark.parametrize("dense", [1000, 10])
def test_the_eigenvector_is_that_of_the_generalized_problem(dense: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("franca.evaluation.methods.token_cut.DENSE", dense)
    weights = affinity(np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32))
    degrees = np.diag(weights.sum(1))
    expected = linalg.eigh(degrees - weights, degrees)[1][:, 1]
    found = second_eigenvector(weights)
    cosine = abs(found @ expected) / np.linalg.norm(found) / np.linalg.norm(expected)
    assert cosine == pytest.approx(1, abs=1e-6)


def test_an_object_on_a_ground_is_found_and_not_its_twin() -> None:
    grid = np.zeros((8, 12, 2), np.float32)
    grid[..., 0] = 1
    grid[2:5, 3:7] = (0, 1)
    assert find_object(grid) == Box(2, 3, 5, 7)
    grid[7, 11] = (0, 1)  # similar, but not connected to it
    assert find_object(grid) in (Box(2, 3, 5, 7), Box(7, 11, 8, 12))


def test_boxes_of_masks() -> None:
    mask = np.full((20, 20), 255, np.uint8)
    mask[1:5, 2:8] = mask[10:20, 10:20] = 3
    mask[0, 19] = 3  # a quarter of a percent
    mask[6:9, 0:3] = 1
    assert mask_boxes(mask, [3]) == [Box(1, 2, 5, 8), Box(10, 10, 20, 20)]
    assert mask_boxes(mask, [0, 1]) == [Box(6, 0, 9, 3)]


def test_iou_by_hand() -> None:
    assert iou(Box(0, 0, 2, 2), Box(0, 1, 2, 3)) == pytest.approx(1 / 3)
    assert iou(Box(0, 0, 1, 1), Box(2, 2, 3, 3)) == 0
    assert is_located(Box(0, 0, 4, 4), [Box(5, 5, 6, 6), Box(0, 0, 4, 2)])
    assert not is_located(Box(0, 0, 4, 4), [Box(0, 0, 4, 1.9)])


def test_keys_are_those_of_the_attention(tiny_params: MakeParams) -> None:
    images = torch.randint(0, 256, (2, 3, 32, 64), dtype=torch.uint8)
    models = [
        random_model(tiny_params().base),
        FrancaModel("vit_tiny_patch16_224", 32, (0.5,) * 3, (0.5,) * 3),
        FrancaModel("eva02_tiny_patch14_224", 28, (0.5,) * 3, (0.5,) * 3),
    ]
    for model in models:
        attention = model.backbone.blocks[-1].attn
        sides = [2 * model.patch_size, 4 * model.patch_size]
        part = images[..., : sides[0], : sides[1]]
        outputs: list[torch.Tensor] = []
        watched = attention.k_proj if attention.qkv is None else attention.qkv
        hook = watched.register_forward_hook(lambda module, args, output, kept=outputs: kept.append(output))
        keys = last_keys(model, part)
        hook.remove()
        assert keys.shape == (2, 2, 4, model.width)
        if outputs:  # a fused layer of EVA is not called
            expected = outputs[0] if attention.qkv is None else outputs[0].chunk(3, dim=-1)[1]
            torch.testing.assert_close(keys.flatten(1, 2), expected[:, model.backbone.num_prefix_tokens :])


def _colors(images: torch.Tensor) -> torch.Tensor:
    patches = images.float().unfold(2, 8, 8).unfold(3, 8, 8).mean((4, 5)).permute(0, 2, 3, 1)
    return patches - torch.tensor([135.0, 70.0, 135.0])


EXTRACTOR = FeatureExtractor(
    "colors", lambda x: Features(x.float().mean((2, 3)), _colors(x)), 32, 8, learned=True, keys=_colors
)


def test_halves_of_images_are_objects(make_store: MakeStore, tiny_params: MakeParams, tmp_path: Path) -> None:
    data = extract_all([EXTRACTOR], make_store(tmp_path))["colors"]
    scores = token_cut.run(EXTRACTOR, data, tiny_params()).measurements
    assert {(score.benchmark, score.split, score.n): score.value for score in scores} == {
        ("token_cut", "val", 2): 100,
        ("token_cut", "test", 3): 100,
        ("token_cut_whole_image", "val", 2): 0,
        ("token_cut_whole_image", "test", 3): 0,
    }


def test_boxes_of_a_data_set_are_its_objects(tiny_params: MakeParams, tmp_path: Path) -> None:
    """Four images whose right quarter is another color: its box is right, a box of the other side is not."""
    names = [str(number) for number in range(4)]
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (tmp_path / "voc" / folder).mkdir(parents=True)
    for name in names:
        pixels = np.full((64, 96, 3), (200, 60, 60), dtype=np.uint8)
        pixels[:, 72:] = 70, 80, 210
        Image.fromarray(pixels).save(tmp_path / f"voc/JPEGImages/{name}.jpg", quality=95)
        left, right = (1, 40) if name == "3" else (73, 96)
        sides = f"<xmin>{left}</xmin><ymin>1</ymin><xmax>{right}</xmax><ymax>64</ymax>"
        objects = "" if name == "2" else f"<object><bndbox>{sides}</bndbox></object>"
        (tmp_path / f"voc/Annotations/{name}.xml").write_text(f"<annotation>{objects}</annotation>")
    (tmp_path / "voc/ImageSets/Main/trainval.txt").write_text("\n".join(names))
    dataset = Dataset.model_validate({"path": str(tmp_path / "voc"), "task": "boxes"})
    prepare_dataset(dataset, "datasets.voc", tiny_params().prepare, tmp_path / "store")
    data = extract_all([EXTRACTOR], Store(tmp_path / "store"))["colors"]
    scores = token_cut.run(EXTRACTOR, data, tiny_params()).measurements
    assert [(score.benchmark, score.split, score.n) for score in scores] == [
        ("token_cut", "val", 3),
        ("token_cut_whole_image", "val", 3),
    ]
    assert [score.value for score in scores] == [pytest.approx(200 / 3, abs=1e-3), 0]
