"""The weights stage: write the digests of the model folders that params.yaml names.

A stage in dvc.yaml cannot depend on a folder that a parameter names, which may also be null. Instead, it depends on a
file of digests that this stage writes. So DVC reruns the stage if the weights were imported again.
"""

from pathlib import Path

from franca.errors import FrancaError
from franca.files import sha256_file, write_json
from franca.params import Params
from franca.paths import RESULTS

OUTPUT = RESULTS / "weights"


def run(params: Params) -> None:
    """Write the digests of `pretrain.init` to init.json and those of `evaluate.comparators` to comparators.json.

    Raises:
        FrancaError: A folder is not a model folder.
    """
    folder, others = params.pretrain.init, params.evaluate.comparators
    init = {"init": _digest(folder, "pretrain.init")} if folder else {}
    comparators = {Path(other).name: _digest(other, "evaluate.comparators") for other in others}
    write_json(OUTPUT / "init.json", init)
    write_json(OUTPUT / "comparators.json", comparators)


def _digest(name: str, key: str) -> dict[str, str]:
    """Return the SHA-256 of each file of a model folder; raises FrancaError if one is missing.

    Args:
        name: The folder.
        key: The parameter that names it, for the message.
    """
    folder = Path(name)
    files = [folder / "config.json", folder / "model.safetensors"]
    if missing := [file.name for file in files if not file.is_file()]:
        raise FrancaError(
            f"{key}: {name}: not a model folder, {missing[0]} is missing; make it with `franca import-weights`, and"
            " give an absolute path if the run is in another folder, as with `dvc exp run --temp`"
        )
    return {file.name: sha256_file(file) for file in files}
