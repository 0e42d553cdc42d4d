from pathlib import Path
from typing import Any

import pytest
import yaml

from franca import presets
from franca.params import load_params, read_yaml, scaled_lr
from franca.params.render import spell
from tests.conftest import MakeParams

ROOT = Path(__file__).parents[2]


def test_there_are_presets() -> None:
    assert {"overhead-cpu", "vitb14-in21k", "vitl14-laion", "vitg14-in21k", "vitl14-in21k-518"} <= set(presets.names())


@pytest.mark.parametrize("name", presets.names())
def test_a_written_preset_is_read_back_by_any_reader(name: str, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    presets.use(name, path)
    params = presets.load(name)
    assert load_params(path) == params
    plain = params.model_dump(mode="json", by_alias=True)
    for tree in (read_yaml(path), yaml.safe_load(path.read_text())):
        assert flat(tree) == flat(plain), "values and their types"
    first, second = path.read_text().splitlines()[:2]
    assert first == "# yaml-language-server: $schema=params.schema.json"
    assert presets.about(name) in second and len(presets.about(name)) > 20


def flat(tree: Any, path: str = "") -> list[tuple[str, str, Any]]:
    """Path, type and value of every leaf."""
    if isinstance(tree, dict):
        return [leaf for key in sorted(tree) for leaf in flat(tree[key], f"{path}.{key}")]
    if isinstance(tree, list):
        return [leaf for index, item in enumerate(tree) for leaf in flat(item, f"{path}.{index}")]
    return [(path, type(tree).__name__, tree)]


def test_every_value_stands_under_its_meaning(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    presets.use("overhead-cpu", path)
    text = path.read_text()
    assert "  # Seed of all random number generators.\n  seed: 0\n" in text
    assert "\n# Self-supervised pretraining.\npretrain:\n" in text
    assert max(len(line) for line in text.splitlines()) <= 119


def test_the_file_in_the_repository_is_the_demo() -> None:
    assert load_params(ROOT / "params.yaml") == presets.load("overhead-cpu")


@pytest.mark.parametrize(
    ("number", "text"), [(1e-5, "1.0e-05"), (2.5e-7, "2.5e-07"), (1e22, "1.0e+22"), (0.1, "0.1"), (1.0, "1.0")]
)
def test_floats_are_spelled_for_yaml_1_1_too(number: float, text: str) -> None:
    assert spell(number) == text
    assert yaml.safe_load(text) == number


PAPER = {
    # embedding, depth, heads, batch, base lr, epochs, warm-up, drop path, global scale, local scale
    "vitb14-in21k": (768, 12, 12, 64 * 32, 7.01e-4, 800, 128, 0.1, (0.32, 1.0), (0.05, 0.32)),
    "vitl14-in21k": (1024, 24, 16, 96 * 32, 2e-4, 500, 80, 0.4, (0.32, 1.0), (0.05, 0.32)),
    "vitg14-in21k": (1536, 40, 24, 96 * 32, 2e-4, 500, 80, 0.4, (0.32, 1.0), (0.05, 0.32)),
    "vitl14-laion": (1024, 24, 16, 96 * 32, 1e-3, 500, 80, 0.4, (0.48, 1.0), (0.05, 0.32)),
    "vitg14-laion": (1536, 40, 24, 96 * 32, 2e-4, 500, 80, 0.4, (0.45, 1.0), (0.05, 0.45)),
    "vitb14-in21k-518": (768, 12, 12, 64 * 32, 7.05e-5, 100, 50, 0.1, (0.32, 1.0), (0.05, 0.32)),
    "vitl14-in21k-518": (1024, 24, 16, 96 * 16, 1.51e-5, 100, 50, 0.1, (0.32, 1.0), (0.05, 0.32)),
}


@pytest.mark.parametrize("name", PAPER)
def test_settings_of_the_paper(name: str) -> None:
    params = presets.load(name)
    backbone, pretrain, optimizer = params.base.backbone, params.pretrain, params.pretrain.optimizer
    assert PAPER[name] == (
        backbone.embed_dim,
        backbone.depth,
        backbone.num_heads,
        pretrain.batch_size,
        optimizer.base_lr,
        pretrain.epochs,
        optimizer.warmup_epochs,
        pretrain.drop_path,
        pretrain.crops.global_scale,
        pretrain.crops.local_scale,
    )
    fine_tuning = name.endswith("-518")
    assert params.base.image_size == (518 if fine_tuning else 224)
    assert pretrain.epoch_length == (200 if fine_tuning else 1250)
    assert (pretrain.init is not None) == fine_tuning
    assert (backbone.patch_size, backbone.ffn, backbone.registers, backbone.layer_scale) == (14, "swiglu", 0, 1e-5)
    assert (pretrain.crops.local_count, pretrain.crops.local_size) == (8, 98)


@pytest.mark.parametrize("name", PAPER)
def test_what_all_runs_of_the_paper_share(name: str) -> None:
    pretrain = presets.load(name).pretrain
    heads, losses, optimizer = pretrain.heads, pretrain.losses, pretrain.optimizer
    assert (heads.prototypes, heads.hidden_dim, heads.bottleneck_dim) == (131072, 2048, 384)
    assert (heads.init, heads.nesting, heads.sharing) == ("fixed", "project", "dedicated")
    assert pretrain.masks.model_dump() == {
        "kind": "inverse_block",
        "cyclic": True,
        "image_share": 0.5,
        "ratio": (0.1, 0.65),
    }
    assert pretrain.augment.model_dump() == {
        "orientation": "flip",
        "jitter": (0.4, 0.4, 0.2, 0.1),
        "jitter_probability": 0.8,
        "gray_probability": 0.2,
        "blur_probability": (1.0, 0.1, 0.5),
        "solarize_probability": 0.2,
    }
    assert losses.koleo_images in (16, 32)  # a GPU's share of the batch
    assert losses.model_dump(exclude={"koleo_images"}) == {
        "dino_weight": 1.0,
        "ibot_weight": 1.0,
        "koleo_weight": 0.1,
        "contrastive_weight": 0.0,
        "contrastive_temperature": 0.2,
        "student_temperature": 0.1,
        "teacher_temperature": (0.04, 0.07),
        "teacher_warmup_epochs": 30,
        "assignment": "sinkhorn",
        "sinkhorn_iterations": 3,
        "center_momentum": 0.9,
    }
    assert optimizer.model_dump(exclude={"base_lr", "warmup_epochs"}) == {
        "min_lr": 1e-6,
        "weight_decay": (0.04, 0.2),
        "layer_decay": 1.0,
        "patch_embed_lr": 0.2,
        "freeze_last_layer_epochs": 1,
        "clip_norm": 3.0,
        "teacher_momentum": (0.994, 1.0),
    }
    assert scaled_lr(optimizer, 4096) == 2 * optimizer.base_lr


def test_the_suite_is_what_scores_depend_on(tiny_params: MakeParams) -> None:
    one = tiny_params({"evaluate.sample_images": 3, "evaluate.comparators": ["models/dinov2"]}).evaluate.comparable
    assert one == tiny_params().evaluate.comparable != tiny_params({"evaluate.knn_k": 7}).evaluate.comparable
