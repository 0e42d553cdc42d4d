from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from franca.data.store.prepared import Store
from franca.evaluation.benchmarks import in_context
from franca.evaluation.features import FeatureExtractor, extract_all
from franca.evaluation.methods.in_context import attend, choose_patches, patch_counts, random_crop
from franca.evaluation.result import Skipped
from franca.models import Features
from tests.conftest import MakeParams
from tests.evaluation.conftest import MakeStore


def color_features(images: torch.Tensor) -> Features:
    patches = images.float().unfold(2, 8, 8).unfold(3, 8, 8).mean((4, 5)).permute(0, 2, 3, 1) / 255 - 0.4
    return Features(patches.mean((1, 2)), patches)


COLORS = FeatureExtractor("colors", color_features, image_size=32, patch_size=8, levels=(1, 3))


def run(store: Store, params: MakeParams, extractor: FeatureExtractor = COLORS) -> dict[tuple[str, str, str], float]:
    data = extract_all([extractor], store)[extractor.name]
    scores = in_context.run(extractor, data, params({"evaluate.in_context_memory": 200})).measurements
    return {(score.benchmark, score.split, score.metric): score.value for score in scores}


def test_separable_classes_are_found(make_store: MakeStore, tiny_params: MakeParams, tmp_path: Path) -> None:
    store = make_store(tmp_path)
    found = run(store, tiny_params)
    for split in ("val", "test"):
        assert found["in_context", split, "miou"] == found["in_context", split, "pixel_accuracy"] == 100
        assert found["in_context_levels", split, "miou_3"] == 100
    assert {name for name, *_ in found} == {
        "in_context",
        "in_context_levels",
        "in_context_random_dims",
        "in_context_components",
    }
    assert run(store, tiny_params) == found


def test_equal_features_give_one_class(make_store: MakeStore, tiny_params: MakeParams, tmp_path: Path) -> None:
    """Half of the pixels are right: IoU 1/2 for one class and 0 for the other."""

    def embed(images: torch.Tensor) -> Features:
        height, width = (side // 8 for side in images.shape[-2:])
        return Features(torch.ones(len(images), 3), torch.ones(len(images), height, width, 3))

    same = FeatureExtractor("same", embed, 32, 8)
    found = run(make_store(tmp_path), tiny_params, same)
    assert found["in_context", "test", "miou"] == 25


def test_no_masks_and_a_single_class(make_store: MakeStore, tiny_params: MakeParams, tmp_path: Path) -> None:
    with pytest.raises(Skipped, match="no dense set"):
        run(make_store(tmp_path / "none", dense_counts=None), tiny_params)
    with pytest.raises(Skipped, match="single class"):
        run(make_store(tmp_path / "one", mask_kinds=1), tiny_params)


def test_pixels_of_a_patch_are_counted_without_the_unlabeled_ones() -> None:
    mask = torch.tensor([[0, 0, 1, 9], [0, 1, 1, 9], [9, 9, 2, 2]])
    assert patch_counts(mask, 9, 3, 3, 2).tolist() == [
        [2, 0, 0],
        [0, 1, 0],
        [1, 1, 0],
        [0, 1, 0],
        [0, 0, 0],
        [0, 0, 2],
    ]
    generator = torch.Generator().manual_seed(0)
    mask = torch.randint(4, (24, 40), generator=generator)
    shares = torch.nn.functional.adaptive_avg_pool2d(
        torch.nn.functional.one_hot(mask).permute(2, 0, 1).float(), (3, 5)
    )
    torch.testing.assert_close(patch_counts(mask, 255, 4, 3, 5) / 64, shares.flatten(1).T)


def test_rare_classes_are_favored() -> None:
    counts = torch.zeros(100, 3)
    counts[:90, 0] = counts[90:98, 1] = 1
    chosen = [choose_patches(counts, 8, (seed,)) for seed in range(50)]
    assert all(len(set(rows.tolist())) == 8 and rows.max() < 98 for rows in chosen)
    rare = sum(int((rows >= 90).sum()) for rows in chosen) / (8 * 50)
    assert 0.4 < rare < 0.9  # 8 % of the patches
    assert len(choose_patches(counts, 500, (0,))) == 98


def test_attention_by_hand_and_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    memory, labels = torch.eye(2), torch.eye(2)
    shares = attend(memory, labels, torch.tensor([[3.0, 3.0], [5.0, 0.0]]))
    torch.testing.assert_close(shares, torch.tensor([[0.5, 0.5], [1.0, 0.0]]))
    generator = torch.Generator().manual_seed(0)
    memory = torch.nn.functional.normalize(torch.randn(90, 6, generator=generator), dim=1)
    labels, queries = torch.rand(90, 4, generator=generator), torch.randn(20, 6, generator=generator)
    similarities = torch.nn.functional.normalize(queries, dim=1) @ memory.T / 0.02
    similarities[similarities < similarities.sort(dim=1, descending=True)[0][:, 29:30]] = -torch.inf
    torch.testing.assert_close(attend(memory, labels, queries), similarities.softmax(1) @ labels)
    monkeypatch.setattr("franca.evaluation.methods.in_context.QUERIES", 7)
    torch.testing.assert_close(attend(memory, labels, queries), similarities.softmax(1) @ labels)


def test_a_crop_has_the_pixels_of_its_mask() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (50, 80)).astype(np.uint8)
    for seed in range(20):
        image, mask = random_crop(Image.fromarray(pixels), pixels, (seed,))
        assert (np.asarray(image) == mask.numpy()).all()
        assert 0.45 < mask.numel() / pixels.size <= 1
