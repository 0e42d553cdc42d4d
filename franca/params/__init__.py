"""The pydantic models behind params.yaml, and reading, updating and writing such files.

Every field is required: the file shows every value that a run uses.
"""

from franca.params.base import Backbone, Base, ChannelStatistics
from franca.params.datasets import Dataset
from franca.params.disentangle import Disentangle
from franca.params.evaluate import Evaluate
from franca.params.faults import fault_lines
from franca.params.objective import Heads, Losses, Optimizer, scaled_lr
from franca.params.prepare import Prepare
from franca.params.pretrain import Pretrain
from franca.params.reading import load_params, parse_params
from franca.params.register import Gate, Register
from franca.params.resolved import ResolvedBase, ResolvedParams, resolve
from franca.params.runtime import Runtime
from franca.params.tree import Params
from franca.params.views import Augment, Crops, Masks
from franca.yaml_file import read_yaml

__all__ = [
    "Augment",
    "Backbone",
    "Base",
    "ChannelStatistics",
    "Crops",
    "Dataset",
    "Disentangle",
    "Evaluate",
    "Gate",
    "Heads",
    "Losses",
    "Masks",
    "Optimizer",
    "Params",
    "Prepare",
    "Pretrain",
    "Register",
    "ResolvedBase",
    "ResolvedParams",
    "Runtime",
    "fault_lines",
    "load_params",
    "parse_params",
    "read_yaml",
    "resolve",
    "scaled_lr",
]
