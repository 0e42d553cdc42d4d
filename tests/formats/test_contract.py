"""The contract of a format: `write(model, folder)`, and `read(path)` if that is enough to build the model."""

import importlib
import inspect
from pathlib import Path
from types import ModuleType

import pytest
import torch

from franca.formats import FORMATS, official, safetensors
from tests.formats.conftest import MakeModel


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_has_a_writer(name: str) -> None:
    module = importlib.import_module(f"franca.formats.{name}")
    assert list(inspect.signature(module.write).parameters)[:2] == ["model", "folder"]
    assert not hasattr(module, "read") or list(inspect.signature(module.read).parameters) == ["path"]


@pytest.mark.parametrize(("module", "file"), [(safetensors, ""), (official, "model.pth")])
def test_read_returns_the_weights_that_were_written(
    make_official_model: MakeModel, tmp_path: Path, module: ModuleType, file: str
) -> None:
    model = make_official_model()
    module.write(model, tmp_path)
    again = module.read(tmp_path / file)
    assert again.architecture == model.architecture and again.digest
    for key, value in again.backbone.state_dict().items():
        assert torch.equal(value, model.backbone.state_dict()[key]), key
