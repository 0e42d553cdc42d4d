"""A folder for `torch.hub.load(FOLDER, "franca", source="local")`: the timm export plus a `hubconf.py`."""

from pathlib import Path

from franca.files import write_bytes
from franca.formats import timm
from franca.formats.model_card import ExportInfo
from franca.models.model import FrancaModel

HUBCONF = '''"""The model of this folder, for `torch.hub.load(FOLDER, "franca", source="local")`."""

from pathlib import Path

import timm

dependencies = ["torch", "timm", "safetensors"]


def franca(**arguments):
    """Return the pretrained model; `arguments` are those of `timm.create_model`."""
    return timm.create_model(f"local-dir:{Path(__file__).parent}", pretrained=True, **arguments)
'''


def write(model: FrancaModel, folder: Path) -> ExportInfo:
    """Write the files of the timm format and `hubconf.py`."""
    load = 'torch.hub.load("FOLDER", "franca", source="local")'
    contents = timm.write(model, folder, f"{timm.IMPORT_LINES}\nimport torch", load)
    write_bytes(folder / "hubconf.py", HUBCONF.encode())
    return contents
