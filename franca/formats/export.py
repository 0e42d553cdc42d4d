"""`franca export`: write a model to a new folder in one of the formats, with a model card."""

import importlib
import os
from pathlib import Path

from franca.errors import FrancaError
from franca.files import atomic_folder
from franca.formats.model_card import ExportInfo, write_card
from franca.formats.variant import variant
from franca.models.model import FrancaModel


def export(
    model: FrancaModel,
    format: str,
    folder: Path,
    *,
    dim: int | None = None,
    image_size: int | None = None,
    keep_position: bool = False,
) -> None:
    """Write a model to a folder atomically, and print what the format cannot hold.

    Args:
        model: The model.
        format: A key of `franca.formats.FORMATS`.
        folder: A new or empty folder.
        dim: Leading dimensions to keep; None for all.
        image_size: Native image size in pixels; None for that of the model.
        keep_position: Leave out RASA's planes.

    Raises:
        FrancaError: The folder exists, or the format cannot hold the model.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise FrancaError(f"{folder}: exists already; give a new folder, or remove it first")
    changed = variant(model, dim, image_size, keep_position)
    with atomic_folder(folder) as temporary:
        info: ExportInfo = importlib.import_module(f"franca.formats.{format}").write(changed, temporary)
        info = info._replace(missing=info.missing + _left_out(model, changed))
        write_card(changed, info, temporary, os.path.basename(os.path.realpath(folder)))
        # safetensors creates files with mode 600; give all files the mode of a file written normally.
        for path in temporary.iterdir():
            path.chmod((temporary / "README.md").stat().st_mode)
    print(f"{folder}: written, format {format}")
    if info.check:
        print(f"checked: {info.check}")
    for line in info.missing:
        print(f"not in this format: {line}")


def _left_out(model: FrancaModel, changed: FrancaModel) -> tuple[str, ...]:
    """Return what the variant does not have of the model, in any format."""
    left = []
    if changed.image_size != model.image_size:
        left.append(f"positions of the native {model.image_size} px: replaced by those of {changed.image_size} px")
    if len(changed.position_planes) < len(model.position_planes):
        left.append("RASA: left out (--keep-position)")
    return tuple(left)
