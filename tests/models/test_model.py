from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from franca.errors import FrancaError
from franca.files import read_json, sha256_file, write_json
from franca.models import load_model, random_model, save_model
from franca.models.model import FrancaModel, normalize
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


def test_patches_lie_where_the_image_has_them(model: FrancaModel) -> None:
    # With all positions alike, one different patch stands out in its own place.
    model.backbone.pos_embed.zero_()  # type: ignore[union-attr]
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
    model.patch_projection.mul_(2)
    after = model(images)
    assert torch.equal(after.pooled, before.pooled)
    torch.testing.assert_close(after.patches, 2 * before.patches)


def test_a_saved_model_comes_back(model: FrancaModel, tmp_path: Path) -> None:
    model.patch_projection.copy_(torch.rand(32, 32))
    save_model(model, tmp_path / "model")
    again = load_model(tmp_path / "model")
    for got, expected in zip(again(make_images()), model(make_images()), strict=True):
        assert torch.equal(got, expected)
    assert again.digest == sha256_file(tmp_path / "model/model.safetensors")
    assert again.architecture == model.architecture
    save_model(again, tmp_path / "twice")
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "twice" / name).read_bytes() == (tmp_path / "model" / name).read_bytes()


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


def test_what_is_wrong_with_a_folder_is_told(model: FrancaModel, tmp_path: Path) -> None:
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
    changed["patch_projection"] = torch.eye(16)
    save_file(changed, folder / "model.safetensors")
    with pytest.raises(FrancaError) as caught:
        load_model(folder)
    assert str(caught.value) == (
        f"{folder / 'model.safetensors'}: the weights do not fit the architecture: missing backbone.mask_token;"
        " patch_projection is (16, 16), not (32, 32); unexpected backbone.extra"
    )

    save_file(weights, folder / "model.safetensors")
    config = read_json(folder / "config.json")
    faults: list[Any] = [config | {"backbone": {}}, {}, [], config | {"image_size": "large"}]
    for broken in faults:
        write_json(folder / "config.json", broken)
        with pytest.raises(FrancaError, match="model: not a readable model: ") as caught:
            load_model(folder)
        assert "\n" not in str(caught.value)
    (folder / "config.json").write_text("{")
    with pytest.raises(FrancaError, match="model: not a readable model: "):
        load_model(folder)
