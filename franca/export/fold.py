"""RASA and a truncation as one matrix in a file beside the weights, for formats that cannot hold them."""

from pathlib import Path

from safetensors.torch import save_file

from franca.models.model import FrancaModel

NAME = "patch_projection.safetensors"

LOAD = f'projection = load_file("FOLDER/{NAME}")["patch_projection"]'
"""The card's line that reads the matrix."""


def is_folded(model: FrancaModel) -> bool:
    """Whether the model's patches are other than the backbone's tokens."""
    return len(model.position_planes) > 0 or model.embed_dim < model.width


def write_fold(model: FrancaModel, folder: Path) -> str:
    """Write the matrix (N, D), float32, and tell in a line that the format lacks it.

    Patches (…, D) of the backbone times its transpose are the model's (…, N).
    """
    matrix = model.patch_projection[: model.embed_dim].contiguous()
    save_file({"patch_projection": matrix}, folder / NAME, metadata={"format": "pt"})
    parts = ["RASA"] * (len(model.position_planes) > 0) + ["truncation"] * (model.embed_dim < model.width)
    return f"{' and '.join(parts)}: a matrix in {NAME}, to be applied as the card says"
