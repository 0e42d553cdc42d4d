"""Franca's own model folder: weights and position planes in `model.safetensors`, architecture in `config.json`."""

from pathlib import Path

from franca.formats.model_card import ExportInfo
from franca.models.model import FrancaModel, load_model, save_model

USAGE = """
import franca
import numpy as np
import torch

model = franca.load("FOLDER")
images = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]  # uint8 (B, 3, H, W), any multiple of the patch size
pooled, patches = model(images)  # (B, N), (B, h, w, N)
"""


def read(path: Path) -> FrancaModel:
    """Return the model of a model folder; `path` is the folder or the `model.safetensors` in it."""
    return load_model(path if path.is_dir() else path.parent)


def write(model: FrancaModel, folder: Path) -> ExportInfo:
    """Write `model.safetensors` and `config.json`, which hold all of the model."""
    save_model(model, folder)
    return ExportInfo("franca", USAGE)
