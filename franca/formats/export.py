"""`franca export`: a model into a new folder, in one of the formats, with its card."""

import importlib
import os
from pathlib import Path

from franca.errors import FrancaError
from franca.files import atomic_folder
from franca.formats.card import Contents, write_card
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
    """Write `model` to `folder`, wholly or not at all, and print what the format does not carry.

    `format` is a key of `franca.formats.FORMATS`; the rest is what `variant` takes.

    Raises:
        FrancaError: if the folder exists or the format cannot hold the model.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise FrancaError(f"{folder}: is there already; name a new folder, or remove it first")
    changed = variant(model, dim, image_size, keep_position)
    with atomic_folder(folder) as temporary:
        contents: Contents = importlib.import_module(f"franca.formats.{format}").write(changed, temporary)
        contents = contents._replace(lacks=contents.lacks + _left(model, changed))
        write_card(changed, contents, temporary, os.path.basename(os.path.realpath(folder)))
        # The library of safetensors makes files that their owner alone can read.
        for path in temporary.iterdir():
            path.chmod((temporary / "README.md").stat().st_mode)
    print(f"{folder}: written, format {format}")
    if contents.checked:
        print(f"checked: {contents.checked}")
    for line in contents.lacks:
        print(f"not in this format: {line}")


def _left(model: FrancaModel, changed: FrancaModel) -> tuple[str, ...]:
    """What the model has and its variant has not, whatever the format."""
    left = []
    if changed.image_size != model.image_size:
        left.append(
            f"positions of the native {model.image_size} px: those of {changed.image_size} px are in their place"
        )
    if len(changed.position_planes) < len(model.position_planes):
        left.append("RASA: left out as --keep-position asks")
    return tuple(left)
