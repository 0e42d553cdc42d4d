from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from franca.errors import FrancaError
from franca.files import read_json, sha256_file, write_json
from franca.models import load_model, random_model, random_twin, save_model
from franca.models.model import FrancaModel, normalize
from franca.models.planes import decompose
from tests.conftest import MakeParams

MEAN, STD = (0.5, 0.4, 0.3), (0.1, 0.2, 0.3)


@pytest.fixture
def model(tiny_params: MakeParams) -> FrancaModel:
    return random_model(tiny_params().base)


def make_images(height: int = 32, width: int = 32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (2, 3, height, width), generator=generator, dtype=torch.uint8)


def test_bytes_to_features(model: FrancaModel) -> None:
    pooled, patches = model(make_images(48, 16))
    assert pooled.shape == (2, 32) and patches.shape == (2, 6, 2, 32)
    assert pooled.dtype == patches.dtype == torch.float32
    assert not pooled.requires_grad and not model.training
    assert (model.image_size, model.patch_size, model.embed_dim, model.levels) == (32, 8, 32, (2, 4, 8, 16, 32))


def test_patches_have_the_order_of_the_image(model: FrancaModel) -> None:
    # With all positions alike, one different patch stands out in its own place.
    model.backbone.pos_embed.zero_()
    images = torch.full((1, 3, 32, 32), 90, dtype=torch.uint8)
    images[:, :, 8:16, 16:24] = 200
    patches = model(images).patches[0]
    distance = (patches - patches.flatten(0, 1).median(dim=0).values).norm(dim=-1)
    assert int(distance.argmax()) == 1 * 4 + 2


def test_normalization_takes_imagenets_statistics_out() -> None:
    images = torch.tensor(MEAN).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    torch.testing.assert_close(normalize(images, MEAN, STD), torch.zeros(1, 3, 2, 2))
    spread = images + torch.tensor(STD).view(1, 3, 1, 1)
    torch.testing.assert_close(normalize(spread, MEAN, STD), torch.ones(1, 3, 2, 2))


def test_position_removal_is_for_patches_alone(model: FrancaModel) -> None:
    images = make_images()
    before = model(images)
    plane = torch.randn(1, 2, 32)
    model.remove_position(plane)
    after = model(images)
    assert torch.equal(after.pooled, before.pooled)
    torch.testing.assert_close(after.patches, decompose(before.patches, plane[0])[1])


def test_a_saved_model_is_loaded_unchanged(model: FrancaModel, tmp_path: Path) -> None:
    model.remove_position(torch.randn(2, 2, 32))
    save_model(model, tmp_path / "model")
    again = load_model(tmp_path / "model")
    for got, expected in zip(again(make_images()), model(make_images()), strict=True):
        assert torch.equal(got, expected)
    assert again.digest == sha256_file(tmp_path / "model/model.safetensors")
    assert again.architecture == model.architecture
    save_model(again, tmp_path / "twice")
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "twice" / name).read_bytes() == (tmp_path / "model" / name).read_bytes()


def test_the_random_twin_of_a_truncated_model_has_as_many_dimensions(tiny_params: MakeParams) -> None:
    base = tiny_params().base
    model = FrancaModel(base.backbone, base.image_size, MEAN, STD, dim=8)
    assert random_twin(model, 0)(make_images()).pooled.shape == (2, 8)


def test_the_random_twin_depends_on_the_seed_alone(tiny_params: MakeParams) -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = random_model(tiny_params().base)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    same, other = random_model(tiny_params().base), random_model(tiny_params({"base.seed": 1}).base)
    images = make_images()
    assert torch.equal(same(images).pooled, first(images).pooled)
    assert not torch.equal(other(images).pooled, first(images).pooled)


def test_errors_of_a_model_folder(model: FrancaModel, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    with pytest.raises(FrancaError, match=r"model: not a model folder, .*config.json is missing"):
        load_model(folder)
    save_model(model, folder)
    weights = {key: value.clone() for key, value in load_file(folder / "model.safetensors").items()}

    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:5000])
    with pytest.raises(FrancaError, match="model: not a readable model: "):
        load_model(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(FrancaError, match=r"model: not a model folder, .*model.safetensors is missing"):
        load_model(folder)

    changed = dict(weights)
    changed["backbone.extra"] = changed.pop("backbone.mask_token")
    changed["backbone.norm.bias"] = torch.zeros(16)
    save_file(changed, folder / "model.safetensors")
    with pytest.raises(FrancaError) as caught:
        load_model(folder)
    assert str(caught.value) == (
        f"{folder / 'model.safetensors'}: the weights do not fit the architecture: backbone.norm.bias is (16,), not"
        " (32,); missing backbone.mask_token; unexpected backbone.extra"
    )

    save_file(weights, folder / "model.safetensors")
    config = read_json(folder / "config.json")
    faults: list[Any] = [config | {"architecture": {}}, {}, [], config | {"image_size": "large"}]
    for broken in faults:
        write_json(folder / "config.json", broken)
        with pytest.raises(FrancaError, match="model: not a readable model: ") as caught:
            load_model(folder)
        assert "\n" not in str(caught.value)
    (folder / "config.json").write_text("{")
    with pytest.raises(FrancaError, match="model: not a readable model: "):
        load_model(folder)


def test_leading_dimensions_alone(model: FrancaModel, tmp_path: Path) -> None:
    short = FrancaModel(model.architecture, 32, model.mean, model.std, dim=8)
    short.load_state_dict(model.state_dict())
    save_model(short, tmp_path / "short")
    short, images = load_model(tmp_path / "short"), make_images()
    assert (short.embed_dim, short.levels) == (8, (2, 4, 8))
    for got, whole in zip(short(images), model(images), strict=True):
        torch.testing.assert_close(got, whole[..., :8])


def test_features_of_any_block_at_any_size(model: FrancaModel) -> None:
    images = make_images(48, 16)
    tokens = model.forward_features(images)
    assert tokens.shape == (2, 1 + 6 * 2, 32) and tokens.dtype == torch.float32
    first, last = model.forward_intermediates(images)
    torch.testing.assert_close(last.pooled, tokens[:, 0])
    torch.testing.assert_close(last.patches, tokens[:, 1:].unflatten(1, (6, 2)))
    assert not torch.allclose(first.patches, last.patches)
    torch.testing.assert_close(model.forward_intermediates(images, [0])[0].patches, first.patches)
    torch.testing.assert_close(model.forward_intermediates(images, [-1])[0].patches, last.patches)
    torch.testing.assert_close(model.forward_intermediates(images, 1)[0].patches, last.patches)
    assert len(model.forward_intermediates(images, 2)) == 2
    raw = model.forward_intermediates(images, 1, norm=False)[0]
    torch.testing.assert_close(model.backbone.norm(raw.patches), last.patches)
    for missing in (0, 3, -1, [2], [-3]):
        with pytest.raises(FrancaError, match=r"no such block: .*; the model has 2, 0 to 1"):
            model.forward_intermediates(images, missing)


SIGLIP, CLIP, DINO = "vit_base_patch16_siglip_224", "vit_xsmall_patch16_clip_224", "vit_small_patch14_reg4_dinov2"


@pytest.mark.parametrize(("name", "image_size", "patch_size"), [(SIGLIP, 32, 16), (CLIP, 32, 16), (DINO, 28, 14)])
def test_plain_transformers_of_timm_are_models_too(
    name: str, image_size: int, patch_size: int, tmp_path: Path
) -> None:
    save_model(FrancaModel(name, image_size, MEAN, STD), tmp_path / "model")
    model = load_model(tmp_path / "model")
    assert (model.architecture, model.patch_size, model.levels) == (name, patch_size, ())
    images = make_images(2 * patch_size, 3 * patch_size)
    pooled, patches = model(images)
    assert pooled.shape == (2, model.width) and patches.shape == (2, 2, 3, model.width)
    last = model.forward_intermediates(images, 1)[0]
    torch.testing.assert_close(last.patches, patches)
    stock = model.backbone.forward_features(normalize(images / 255, MEAN, STD))
    torch.testing.assert_close(pooled, model.backbone.forward_head(stock, pre_logits=True))


def test_other_names_are_refused() -> None:
    with pytest.raises(FrancaError, match="no_such_vit: timm makes no plain vision transformer of that name"):
        FrancaModel("no_such_vit", 32, MEAN, STD)
    with pytest.raises(FrancaError, match=r"resnet18: (timm makes no|a ResNet)"):
        FrancaModel("resnet18", 32, MEAN, STD)


def float_images() -> torch.Tensor:
    return make_images().float() / 255


WRONG_TYPES = {
    "float in 0..1": (
        float_images,
        "torch.float32, not torch.uint8; the model normalizes images itself: convert values",
    ),
    "half": (lambda: float_images().half(), r"\(images \* 255\).round\(\).to\(torch.uint8\)"),
    "bfloat16": (lambda: float_images().bfloat16(), "torch.bfloat16, not torch.uint8"),
    "float in 0..255": (lambda: make_images().double(), "torch.float64, not torch.uint8"),
    "int64": (lambda: make_images().long(), r"torch.int64, not torch.uint8; convert values in 0..255 by images.to"),
    "bool": (lambda: make_images() > 9, "torch.bool, not torch.uint8"),
    "array": (lambda: make_images().numpy(), r"a ndarray, not a torch.Tensor of uint8; .*torch.from_numpy\(images\)"),
    "list": (lambda: list(make_images()), "a list, not a torch.Tensor of uint8; stack uint8 tensors"),
    "nothing": (lambda: None, "a NoneType, not a torch.Tensor of uint8"),
}
WRONG_SHAPES = {
    "channels last": ((2, 32, 48, 3), r"shape \(2, 32, 48, 3\), not \(B, 3, H, W\); .*images.permute\(0, 3, 1, 2\)"),
    "no batch": ((3, 32, 32), r"shape \(3, 32, 32\), not .*: images\[None\]$"),
    "no batch, channels last": ((32, 32, 3), r": images\[None\].permute\(0, 3, 1, 2\)$"),
    "gray": ((2, 1, 32, 32), r"repeat the gray channel: images.expand\(-1, 3, -1, -1\)"),
    "alpha": ((2, 4, 32, 32), r"leave the alpha channel out: images\[:, :3\]"),
    "two channels": ((2, 2, 32, 32), r"stack RGB images, \(3, H, W\) each"),
    "gray, no batch": ((32, 32), "stack RGB images"),
    "video": ((1, 2, 3, 32, 32), "stack RGB images"),
    "a side too long": (
        (2, 3, 33, 32),
        r"33 x 32 pixels \(H x W\) are not multiples of the patch size 8; resize or crop",
    ),
    "a side too short": ((2, 3, 32, 4), "32 x 4 pixels"),
    "no pixels": ((2, 3, 0, 32), "0 x 32 pixels"),
}


def ways_in(model: FrancaModel) -> list[Callable[[Any], Any]]:
    return [model, model.forward_features, model.forward_intermediates]


@pytest.mark.parametrize("name", WRONG_TYPES)
def test_images_of_another_type_are_refused(model: FrancaModel, name: str) -> None:
    make, reason = WRONG_TYPES[name]
    for call in ways_in(model):
        with pytest.raises(TypeError, match=f"^images: .*{reason}") as caught:
            call(make())
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", WRONG_SHAPES)
def test_images_of_another_shape_are_refused(model: FrancaModel, name: str) -> None:
    shape, reason = WRONG_SHAPES[name]
    for call in ways_in(model):
        with pytest.raises(ValueError, match=f"^images: .*{reason}"):
            call(torch.zeros(shape, dtype=torch.uint8))


def test_what_the_messages_say_to_do_is_right(model: FrancaModel) -> None:
    images = make_images()
    floats = images.float() / 255
    for converted in (
        (floats * 255).round().to(torch.uint8),
        torch.from_numpy(images.numpy()),
        images.permute(0, 2, 3, 1).permute(0, 3, 1, 2),
    ):
        assert torch.equal(model(converted).pooled, model(images).pooled)
    assert torch.equal(model(images[0][None]).pooled, model(images[:1]).pooled)
    assert model(images[:, :1].expand(-1, 3, -1, -1)).pooled.shape == (2, 32)


def test_timm_models_refuse_the_same() -> None:
    model = FrancaModel("vit_wee_patch16_reg1_gap_256", 32, MEAN, STD)
    with pytest.raises(TypeError, match=r"not torch\.uint8"):
        model(torch.rand(1, 3, 32, 32))
    with pytest.raises(ValueError, match="not multiples of the patch size 16"):
        model(torch.zeros(1, 3, 24, 32, dtype=torch.uint8))
