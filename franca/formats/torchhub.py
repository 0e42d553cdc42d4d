"""A folder for `torch.hub.load(FOLDER, "franca", source="local")`: the timm export and a `hubconf.py` beside it."""

from pathlib import Path

from franca.files import write_bytes
from franca.formats import timm
from franca.formats.card import Contents
from franca.models.model import FrancaModel

HUBCONF = '''"""The model of this folder, for `torch.hub.load(FOLDER, "franca", source="local")`."""

from pathlib import Path

import timm

dependencies = ["torch", "timm", "safetensors"]


def franca(**arguments):
    """The pretrained model as timm makes it; `arguments` are those of `timm.create_model`."""
    return timm.create_model(f"local-dir:{Path(__file__).parent}", pretrained=True, **arguments)
'''


def write(model: FrancaModel, folder: Path) -> Contents:
    """Write what the timm format has, and `hubconf.py`."""
    loaded = 'torch.hub.load("FOLDER", "franca", source="local")'
    contents = timm.write(model, folder, f"{timm.IMPORTED}\nimport torch", loaded)
    write_bytes(folder / "hubconf.py", HUBCONF.encode())
    return contents
