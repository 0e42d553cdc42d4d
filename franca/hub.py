"""One call for a model, wherever it lies."""

import re
from pathlib import Path

from franca.errors import FrancaError
from franca.files import sha256_file
from franca.models import FrancaModel, load_model

_ADDRESS = re.compile(r"(models|runs):/.*")
_RUN_ID = re.compile(r"[0-9a-f]{32}")


def load(source: str | Path) -> FrancaModel:
    """The model that `source` names, on the CPU and ready for use.

    - a model folder, as `models/franca`, or the `model.safetensors` in it
    - an official checkpoint of Franca or DINOv2, in a file of any name
    - the registry: `models:/franca@champion`, `models:/franca/3`
    - a run: `runs:/ID`, or its 32 digits alone

    Raises FrancaError for whatever is not there or cannot be read.
    """
    address, path = str(source), Path(source)
    if path.is_dir():
        return load_model(path)
    if path.is_file():
        beside = path.name == "model.safetensors" and (path.parent / "config.json").is_file()
        return load_model(path.parent) if beside else _official(path)
    if _ADDRESS.fullmatch(address) or _RUN_ID.fullmatch(address):
        from franca.tracking.download import download

        return download(f"runs:/{address}" if _RUN_ID.fullmatch(address) else address)
    raise FrancaError(f"{source}: no such model; `dvc repro` makes models/franca, `franca import-weights` any other")


def _official(path: Path) -> FrancaModel:
    from franca.formats.official import read_model

    model, _ = read_model([path])
    model.digest = sha256_file(path)
    return model
