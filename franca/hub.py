"""`franca.load`: load a model from a folder, a file, the registry or a run."""

import re
from pathlib import Path

from franca.errors import FrancaError
from franca.formats import official, safetensors, timm
from franca.models import FrancaModel

_ADDRESS = re.compile(r"(models|runs):/.*")
_RUN_ID = re.compile(r"[0-9a-f]{32}")


def load(source: str | Path) -> FrancaModel:
    """Return a model on the CPU, in evaluation mode.

    Args:
        source: One of

            - a model folder, such as `models/franca`, or the `model.safetensors` in it
            - an official checkpoint of Franca or DINOv2, in a file of any name
            - a version in the registry: `models:/franca@champion`, `models:/franca/3`
            - an MLflow run: `runs:/ID`, or its ID of 32 digits alone
            - a vision transformer of timm with its weights from the hub: `timm:vit_small_patch16_224.dino`

    Raises:
        FrancaError: There is no such model, or it cannot be read.
    """
    address, path = str(source), Path(source)
    if path.is_dir():
        return safetensors.read(path)
    if path.is_file():
        if path.name == "model.safetensors" and (path.parent / "config.json").is_file():
            return safetensors.read(path)
        return official.read(path)
    if _ADDRESS.fullmatch(address) or _RUN_ID.fullmatch(address):
        from franca.tracking.download import download

        return download(f"runs:/{address}" if _RUN_ID.fullmatch(address) else address)
    if address.startswith("timm:"):
        return timm.from_hub(address.removeprefix("timm:"))
    raise FrancaError(f"{source}: no such model; run `dvc repro` or `franca import-weights` to make one")
