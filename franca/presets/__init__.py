"""Presets: parameter files that `franca params use` writes out as `params.yaml`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from franca.files import write_bytes
from franca.params import Params, load_params, parse_params, read_yaml
from franca.params.overrides import override
from franca.params.render import to_yaml
from franca.paths import PARAMS

FOLDER = Path(__file__).parent
KINDS = {
    "photos": "photographs: mirrored, strong changes of color",
    "overhead": "aerial, satellite or microscopy images, which have no up: mirrored and turned, weak changes of color",
}
"""Kinds of images that have presets KIND-cpu and KIND-1gpu."""


def names() -> list[str]:
    """Return the names of all presets."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def about(name: str) -> str:
    """Return the preset's first line, a comment that says what it is for."""
    with (FOLDER / f"{name}.yaml").open(encoding="utf-8") as file:
        return file.readline().removeprefix("#").strip()


def values(name: str) -> dict[str, Any]:
    """Return the preset's tree: its own values over those of the preset that it `extends`."""
    tree: dict[str, Any] = read_yaml(FOLDER / f"{name}.yaml")
    parent = tree.pop("extends", None)
    return _over(values(parent), tree) if parent else tree


def _over(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _over(merged[key], value) if both else value
    return merged


def load(name: str) -> Params:
    """Return the parameters of a preset."""
    return parse_params(values(name), f"preset {name}")


def changed(name: str | None, changes: Sequence[str]) -> Params:
    """Return the parameters of a preset, or of params.yaml if `name` is None, with changes NAME=VALUE.

    Raises:
        FrancaError: params.yaml is invalid, a name is unknown, or a value is invalid.
    """
    if name is None:
        load_params(PARAMS)  # reports a fault of the file as one of the file
    return override(read_yaml(PARAMS) if name is None else values(name), changes)


def use(name: str, path: Path) -> None:
    """Write every value of a preset to `path`."""
    write(load(name), path, f"{about(name)} (preset {name})")


def write(params: Params, path: Path, comment: str) -> None:
    """Write every value to `path`, below its description; `comment` goes to the top."""
    write_bytes(path, to_yaml(params, comment).encode())
