"""Parameters with some values changed by `NAME=VALUE`, for example `pretrain.epochs=0.2`."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from franca.errors import FrancaError
from franca.params.reading import parse_params
from franca.params.tree import Params
from franca.yaml_file import parse_yaml


def override(values: dict[str, Any], changes: Sequence[str]) -> Params:
    """Return the parameters of a tree of values with changes; of two changes of one name the last one counts.

    Args:
        values: A valid tree.
        changes: Texts `NAME=VALUE`: a dotted name, and a value in YAML.

    Raises:
        FrancaError: A change has another form, an unknown name or an invalid value; one line for each fault.
    """
    tree = copy.deepcopy(values)
    for change in changes:
        name, equals, text = change.partition("=")
        name = name.strip()
        if not (equals and name and text.strip()):
            raise FrancaError(f"{change or 'an empty change'}: not of the form NAME=VALUE; an empty value is null")
        _set(tree, name, parse_yaml(text.encode(), Path(name))[1])
    return parse_params(tree, "changed values")


def _set(tree: dict[str, Any], name: str, value: Any) -> None:
    """Set the value at a dotted name. Names that do not exist are added, for the validation to refuse them."""
    *sections, key = name.split(".")
    for depth, section in enumerate(sections, start=1):
        inner = tree.setdefault(section, {})
        if not isinstance(inner, dict):
            raise FrancaError(f"{name}: {'.'.join(sections[:depth])} is one value without keys; set it as a whole")
        tree = inner
    tree[key] = value
