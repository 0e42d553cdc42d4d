"""Paths in a project folder.

Stages run in the project folder, so most paths are relative to the current folder.
"""

import os
from pathlib import Path

PARAMS = Path("params.yaml")
PREPARED = Path("prepared")
DATASETS = Path("datasets")
"""Stores of the data sets of evaluation, a folder each."""
PRETRAINED = Path("models/pretrained")
MODEL = Path("models/franca")
RESULTS = Path("results")


def runs_root() -> Path:
    """Return the absolute path of `runs`, the folder of checkpoints and step-by-step logs.

    It is not an output of DVC, which deletes the outputs of a stage before it runs; a killed stage needs its
    checkpoints. It is relative to DVC_ROOT, which DVC sets for its stages: in `dvc exp run --temp` that is the main
    checkout, so that checkpoints outlive the temporary folder.
    """
    return Path(os.environ.get("DVC_ROOT", ".")).resolve() / "runs"


def requeue_path() -> Path:
    """Return the path of the file that a stage writes if it was stopped and is to be run again."""
    return runs_root() / "requeue.json"
