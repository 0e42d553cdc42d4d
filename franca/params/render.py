"""Write parameters as YAML, each value below the description of its field."""

import io
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.scalarstring import SingleQuotedScalarString

from franca.params.section import by_key, section_of
from franca.params.tree import Params

WIDTH = 119
SCHEMA_LINE = "yaml-language-server: $schema=params.schema.json"


def to_yaml(params: Params, comment: str) -> str:
    """Return a whole parameter file; `comment` goes to the top."""
    document = commented(Params, params.model_dump(by_alias=True))
    document.yaml_set_start_comment(f"{SCHEMA_LINE}\n{comment}")
    return dump(document)


def commented(model: type[BaseModel], values: Mapping[str, Any], indent: int = 0) -> CommentedMap:
    """Return those of a section's fields that `values` has, with their descriptions as comments."""
    tree = CommentedMap()
    for key, field in by_key(model).items():
        if key not in values:
            continue
        inner = section_of(field)
        tree[key] = commented(inner, values[key], indent + 2) if inner else plain(values[key])
        if not inner or model is Params:
            gap = "\n" if model is Params else ""
            tree.yaml_set_comment_before_after_key(key, before=f"{gap}{field.description}", indent=indent)
    return tree


def plain(value: Any) -> Any:
    """Return a value as ruamel writes it: lists of numbers on one line, lists of mappings as blocks, "off" quoted."""
    if value == "off":
        return SingleQuotedScalarString(value)  # plain, it is false to readers of YAML 1.1
    if isinstance(value, Mapping):
        return CommentedMap({key: plain(item) for key, item in value.items()})
    if isinstance(value, list | tuple):
        sequence = CommentedSeq([plain(item) for item in value])
        if not any(isinstance(item, Mapping) for item in value):
            sequence.fa.set_flow_style()
        return sequence
    return value


def dump(document: Any) -> str:
    """Return a tree of `commented` or `plain` as YAML that readers of version 1.1 and 1.2 understand alike."""
    yaml = YAML()
    yaml.width = WIDTH
    yaml.representer.add_representer(type(None), lambda r, _: r.represent_scalar("tag:yaml.org,2002:null", "null"))
    yaml.representer.add_representer(float, lambda r, x: r.represent_scalar("tag:yaml.org,2002:float", spell(x)))
    stream = io.StringIO()
    yaml.dump(document, stream)
    return stream.getvalue()


def spell(number: float) -> str:
    """Return a float as YAML 1.1 and 1.2 both read it: 1.0e-06, where Python writes 1e-06."""
    text = repr(number)
    return text.replace("e", ".0e") if "e" in text and "." not in text else text
