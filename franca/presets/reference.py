"""A table of all fields of params.yaml, from which documentation is generated."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from franca import presets
from franca.params.history import get
from franca.params.section import by_key, entry_of, item_of, section_of
from franca.params.tree import Params


class FieldFacts(NamedTuple):
    """A parameter, as the documentation lists it."""

    key: str
    """Dotted path; `[]` stands for an item of a list"""
    type: str
    """For example `number`, `list of 3 numbers` or `mlp | swiglu`"""
    bounds: str
    """For example `>= 0, < 1`; empty for none"""
    description: str
    presets: dict[str, Any]
    """The value of each preset by its name; empty for fields of list items"""


class SectionFacts(NamedTuple):
    """A section of parameters, as the documentation lists it."""

    key: str
    description: str
    fields: list[FieldFacts]
    """The section's own fields, in the order of the file"""


def sections() -> list[SectionFacts]:
    """Return every section and subsection in the order of the file."""
    values = {name: presets.load(name).model_dump(mode="json", by_alias=True) for name in presets.names()}
    return list(_sections(Params, "", values, Params.model_json_schema()["$defs"]))


def _sections(
    model: type[BaseModel], path: str, values: dict[str, Any], schemas: dict[str, Any]
) -> Iterator[SectionFacts]:
    for key, field in by_key(model).items():
        here = f"{path}.{key}".lstrip(".")
        if inner := section_of(field):
            properties = schemas[inner.__name__]["properties"]
            fields = [
                _facts(f"{here}.{name}", part, properties[name], values, schemas)
                for name, part in by_key(inner).items()
                if not section_of(part)
            ]
            yield SectionFacts(here, str(field.description), fields)
            yield from _sections(inner, here, values, schemas)
        elif item := item_of(field) or entry_of(field):
            properties = schemas[item.__name__]["properties"]
            each = f"{here}[]" if item_of(field) else f"{here}.NAME"
            items = [
                _facts(f"{each}.{name}", part, properties[name], {}, schemas) for name, part in by_key(item).items()
            ]
            yield SectionFacts(each, f"One item of {here}.", items)


def _facts(
    key: str, field: FieldInfo, schema: dict[str, Any], values: dict[str, Any], schemas: dict[str, Any]
) -> FieldFacts:
    own = {name: get(tree, key) for name, tree in values.items()}
    return FieldFacts(key, _type(schema), _bounds(schema), str(field.description), own)


def _type(schema: dict[str, Any]) -> str:
    for union in ("anyOf", "oneOf"):
        if union in schema:
            return " | ".join(_type(part) for part in schema[union])
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    if "const" in schema:
        return str(schema["const"])
    if "prefixItems" in schema:
        return f"list of {len(schema['prefixItems'])} numbers"
    if schema.get("type") == "array":
        items = schema["items"]
        return f"list of {'sections' if '$ref' in items else _type(items) + 's'}"
    return str(schema["type"])


_LIMITS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}


def _bounds(schema: dict[str, Any]) -> str:
    """Bounds of a number, or of the numbers of a list."""
    for union in ("anyOf", "oneOf"):
        for part in schema.get(union, ()):
            if found := _bounds(part):
                return found
    if "prefixItems" in schema:
        each = [_bounds(part) for part in schema["prefixItems"]]
        return each[0] if len(set(each)) == 1 else "; ".join(each)
    if isinstance(schema.get("items"), dict):
        return _bounds(schema["items"])
    bounds = [f"{sign} {schema[name]}" for name, sign in _LIMITS.items() if name in schema]
    if "pattern" in schema:
        bounds.append(f"matches {schema['pattern']}")
    return ", ".join(bounds)
