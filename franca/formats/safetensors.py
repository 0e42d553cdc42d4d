"""Franca's own model folder: all of the model in `model.safetensors`, its architecture in `config.json`."""

from pathlib import Path

from franca.formats.card import Contents
from franca.models.model import FrancaModel, save_model

USAGE = """
import franca
import numpy as np
import torch

model = franca.load("FOLDER")
images = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]  # uint8 (B, 3, H, W), any multiple of the patch size
pooled, patches = model(images)  # (B, N), (B, h, w, N)
"""


def write(model: FrancaModel, folder: Path) -> Contents:
    save_model(model, folder)
    return Contents("franca", USAGE)
