"""Read and validate parameter files."""

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from franca.errors import FrancaError
from franca.params.faults import fault_lines
from franca.params.history import REPLACED
from franca.params.tree import Params
from franca.paths import PARAMS
from franca.yaml_file import read_yaml

SHOWN = 3
"""Number of keys of another version above which they share one line."""


def load_params(path: Path) -> Params:
    """Read and validate a parameter file.

    Raises:
        FrancaError: The file cannot be read or is invalid, with one line for each fault.
    """
    return parse_params(as_tree(read_yaml(path), path), str(path), f"run `{update_command(path)}`")


def parse_params(values: Any, origin: str, hint: str = "") -> Params:
    """Validate a tree of values.

    Args:
        values: The tree.
        origin: Name of the file, for error messages.
        hint: What to do about keys that another version of Franca had or has.

    Raises:
        FrancaError: The tree is invalid, with one line for each fault.
    """
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        lines = fault_lines(error, Params)
        outdated = [line for line in lines if hint and _is_outdated(line)]
        if len(outdated) > SHOWN:
            keys = ", ".join(line.partition(": ")[0] for line in outdated[:SHOWN])
            more = f"{len(outdated)} keys are missing or of an older version ({keys}, ...); {hint}"
            lines = [more, *(line for line in lines if line not in outdated)]
        else:
            lines = [f"{line}; {hint}" if line in outdated else line for line in lines]
        raise FrancaError("\n".join(f"{origin}: {line}" for line in lines)) from None


def _is_outdated(line: str) -> bool:
    """Return whether the file may have this fault because it is of another version."""
    key, _, fault = line.partition(": ")
    return key in REPLACED or (fault == "missing key" and not key.rpartition(".")[2].isdigit())


def as_tree(values: Any, path: Path) -> dict[str, Any]:
    """Return `values` if it is a mapping; raises FrancaError."""
    if not isinstance(values, dict):
        kind = "empty" if values is None else "not a mapping of sections"
        raise FrancaError(f"{path}: {kind}; `franca params use overhead-cpu` writes a whole file")
    return values


def update_command(path: Path) -> str:
    """Return the command that updates a file."""
    return "franca params update" if path == PARAMS else f"franca --params {path} params update"
