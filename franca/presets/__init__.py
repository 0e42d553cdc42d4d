"""Presets: complete or partial parameter files that `franca params use` materializes into `params.yaml`."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.scalarstring import SingleQuotedScalarString

from franca.files import atomic_path
from franca.params import Params, parse_params, read_yaml

FOLDER = Path(__file__).parent
KINDS = {
    "photos": "photographs: mirrored, strong changes of color",
    "overhead": "aerial, satellite or microscopy images, which have no up: mirrored and turned, weak changes of color",
}
"""Kinds of images that have presets KIND-cpu and KIND-1gpu."""
SCHEMA_LINE = "yaml-language-server: $schema=params.schema.json"


def names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def about(name: str) -> str:
    """The preset's first line, a comment that says what it is for."""
    with (FOLDER / f"{name}.yaml").open(encoding="utf-8") as file:
        return file.readline().removeprefix("#").strip()


def values(name: str) -> dict[str, Any]:
    """The preset's whole tree: its own values over those of the preset that it `extends`."""
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
    return parse_params(values(name), f"preset {name}")


def use(name: str, path: Path) -> None:
    """Write every value of a preset to `path`."""
    write(load(name), path, f"{about(name)} (preset {name})")


def write(params: Params, path: Path, comment: str) -> None:
    """Write every value to `path` under one sentence that says what it means; `comment` goes to the top."""
    document = _commented(params, 0)
    document.yaml_set_start_comment(f"{SCHEMA_LINE}\n{comment}")
    yaml = YAML()
    yaml.width = 119
    yaml.representer.add_representer(type(None), lambda r, _: r.represent_scalar("tag:yaml.org,2002:null", "null"))
    yaml.representer.add_representer(float, lambda r, x: r.represent_scalar("tag:yaml.org,2002:float", spell(x)))
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        yaml.dump(document, file)


def _commented(model: BaseModel, indent: int) -> CommentedMap:
    tree = CommentedMap()
    for name, field in type(model).model_fields.items():
        key = field.alias or name
        value = getattr(model, name)
        tree[key] = _commented(value, indent + 2) if isinstance(value, BaseModel) else _plain(value)
        if not isinstance(value, BaseModel) or indent == 0:
            gap = "\n" if indent == 0 else ""
            tree.yaml_set_comment_before_after_key(key, before=f"{gap}{field.description}", indent=indent)
    return tree


def _plain(value: Any) -> Any:
    """Return a value as ruamel writes it: lists of numbers on one line, lists of models as blocks, "off" quoted."""
    if value == "off":
        return SingleQuotedScalarString(value)  # plain, it is false to readers of YAML 1.1
    if isinstance(value, BaseModel):
        return CommentedMap({key: _plain(item) for key, item in value.model_dump(by_alias=True).items()})
    if isinstance(value, list | tuple):
        sequence = CommentedSeq([_plain(item) for item in value])
        if not any(isinstance(item, BaseModel) for item in value):
            sequence.fa.set_flow_style()
        return sequence
    return value


def spell(number: float) -> str:
    """A float as YAML 1.1 and 1.2 both read it: 1.0e-06, where Python writes 1e-06."""
    text = repr(number)
    return text.replace("e", ".0e") if "e" in text and "." not in text else text
