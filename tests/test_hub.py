"""`franca.load`: one call for a model; what lies on a tracking server is in tests/tracking/test_download.py."""

from pathlib import Path

import pytest
import torch

import franca
from franca import hub
from franca.errors import FrancaError
from franca.models import random_model, save_model
from tests.conftest import MakeParams


def test_a_model_folder(tiny_params: MakeParams, tmp_path: Path) -> None:
    model = random_model(tiny_params().base)
    save_model(model, tmp_path / "model")
    images = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    for source in (tmp_path / "model", str(tmp_path / "model")):
        assert torch.equal(franca.load(source)(images).pooled, model(images).pooled)


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


def test_the_package_has_it_as_an_attribute() -> None:
    assert franca.load is hub.load
    with pytest.raises(AttributeError, match="module 'franca' has no attribute 'lode'"):
        franca.lode  # noqa: B018
