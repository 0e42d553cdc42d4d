"""`franca.load`: one call for a model; what lies on a tracking server is in tests/tracking/test_download.py."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

import franca
from franca import hub
from franca.errors import FrancaError
from franca.files import sha256_file
from franca.formats.official import rasa_to_official, to_official
from franca.models import random_model, save_model
from tests.conftest import MakeParams


def test_a_model_folder(tiny_params: MakeParams, tmp_path: Path) -> None:
    model = random_model(tiny_params().base)
    save_model(model, tmp_path / "model")
    images = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    for source in (tmp_path / "model", str(tmp_path / "model")):
        assert torch.equal(franca.load(source)(images).pooled, model(images).pooled)


def test_an_official_checkpoint_and_the_file_of_a_model_folder(tiny_params: MakeParams, tmp_path: Path) -> None:
    model = random_model(tiny_params({"base.backbone.embed_dim": 64, "base.backbone.num_heads": 1}).base)
    model.mean, model.std = IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
    save_model(model, tmp_path / "model")
    official = to_official(model)
    torch.save({"model": official}, tmp_path / "weights.pth")
    save_file(official, tmp_path / "weights.safetensors")
    images = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    for name in ("model/model.safetensors", "weights.pth", "weights.safetensors"):
        loaded = franca.load(tmp_path / name)
        torch.testing.assert_close(loaded(images), model(images))
        assert loaded.digest == sha256_file(tmp_path / name)
    assert franca.load(tmp_path / "model/model.safetensors").levels == (4, 8, 16, 32, 64)


def test_planes_of_position_come_with_a_checkpoint(tiny_params: MakeParams, tmp_path: Path) -> None:
    model = random_model(tiny_params({"base.backbone.embed_dim": 64, "base.backbone.num_heads": 1}).base)
    model.mean, model.std = IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
    model.remove_position(torch.randn(3, 2, 64))
    head = {f"rasa_head.{key}": value for key, value in rasa_to_official(model).items()}
    torch.save(to_official(model) | head, tmp_path / "rasa.pth")
    images = torch.randint(256, (1, 3, 32, 32), dtype=torch.uint8)
    torch.testing.assert_close(franca.load(tmp_path / "rasa.pth")(images), model(images))


def test_planes_of_another_width_are_refused(tiny_params: MakeParams, tmp_path: Path) -> None:
    model = random_model(tiny_params({"base.backbone.embed_dim": 64, "base.backbone.num_heads": 1}).base)
    narrow = random_model(tiny_params().base)
    narrow.remove_position(torch.randn(3, 2, 32))
    head = {f"rasa_head.{key}": value for key, value in rasa_to_official(narrow).items()}
    torch.save(to_official(model) | head, tmp_path / "rasa.pth")
    with pytest.raises(FrancaError, match=r"rasa.pth: a RASA head for 32 dimensions; the model has 64$"):
        franca.load(tmp_path / "rasa.pth")


def test_a_folder_wins_over_a_run_of_the_same_name(
    tiny_params: MakeParams, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save_model(random_model(tiny_params().base), tmp_path / ("0" * 32))
    assert franca.load("0" * 32).image_size == 32


def test_what_is_no_model_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(FrancaError, match=r"^models/none: no such model"):
        franca.load("models/none")
    with pytest.raises(FrancaError, match=r"not a model folder, .*config.json is missing$"):
        franca.load(tmp_path)
    (tmp_path / "empty.pth").touch()
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\xff\xe0 and so on")
    for name in ("empty.pth", "photo.jpg"):
        with pytest.raises(FrancaError, match=rf"^{tmp_path}/{name}: [^\n]*$"):
            franca.load(tmp_path / name)


def test_the_package_has_it_as_an_attribute() -> None:
    assert franca.load is hub.load
    with pytest.raises(AttributeError, match="module 'franca' has no attribute 'lode'"):
        franca.lode  # noqa: B018
