"""The weights stage: digests of the model folders that params.yaml names, as files that DVC compares.

A stage of dvc.yaml cannot depend on a folder that a parameter names, or on none if the parameter is null. It depends
on the file that this stage writes from the folder's content, so that DVC sees weights that were imported again.
"""

from pathlib import Path

from franca.errors import FrancaError
from franca.files import sha256_file, write_json
from franca.params import Params
from franca.paths import RESULTS

OUTPUT = RESULTS / "weights"


def run(params: Params) -> None:
    """Write the digests of `pretrain.init` and of `evaluate.comparators`, each to a file of its own."""
    start, others = params.pretrain.init, params.evaluate.comparators
    init = {"init": _digest(start, "pretrain.init")} if start else {}
    comparators = {Path(folder).name: _digest(folder, "evaluate.comparators") for folder in others}
    write_json(OUTPUT / "init.json", init)
    write_json(OUTPUT / "comparators.json", comparators)


def _digest(name: str, key: str) -> dict[str, str]:
    """SHA-256 of each of a model folder's files. Raises FrancaError if one is missing."""
    folder = Path(name)
    files = [folder / "config.json", folder / "model.safetensors"]
    if missing := [file.name for file in files if not file.is_file()]:
        raise FrancaError(
            f"{key}: {name}: not a model folder, {missing[0]} is missing; make it by `franca import-weights`, and give"
            " an absolute path if the run works in another folder, as `dvc exp run --temp` does"
        )
    return {file.name: sha256_file(file) for file in files}
