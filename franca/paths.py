"""Where things lie in a project folder: DVC_ROOT, which DVC sets for every stage, else the current folder."""

import os
from pathlib import Path

PARAMS = Path("params.yaml")
PREPARED = Path("prepared")
PRETRAINED = Path("models/pretrained")
MODEL = Path("models/franca")
RESULTS = Path("results")


def runs_root() -> Path:
    """Folder of checkpoints and step-by-step logs: outside DVC's outs, so that a killed stage finds its own again.

    It hangs on DVC_ROOT, which in `dvc exp run --temp` is the main checkout, and so outlives the temporary folder.
    """
    return Path(os.environ.get("DVC_ROOT", ".")).resolve() / "runs"


def requeue_path() -> Path:
    """There while a stage that was asked to stop waits to be run again."""
    return runs_root() / "requeue.json"
