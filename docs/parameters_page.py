"""The page of parameters, from the models behind params.yaml and the presets."""

from collections.abc import Iterator
from typing import Any

from franca import presets
from franca.params import Params

SHOWN = ("overhead-cpu", "photos-cpu", "overhead-1gpu", "photos-1gpu", "vitb14-in21k")
"""Presets whose values the page shows."""
TYPES = {"integer": "integer", "number": "number", "string": "string", "boolean": "true or false"}
INTRODUCTION = """\
This page lists every parameter of `params.yaml`, section by section. All are required, so the file shows everything
that a run uses. Write a whole file from a [preset](#presets), with a comment for each value:

```sh
franca params use overhead-cpu
```

Check a file that you have edited. Each mistake is one line that names the key, the problem and the value:

```sh
franca params check
```

The check covers rules that join several values as well, for example that `base.image_size` is a multiple of
`base.backbone.patch_size`. The first line of the file names `params.schema.json`, so editors with support for YAML
schemas check it while you type.

The column "Presets" has the values of the four presets that `franca init` starts from and of `vitb14-in21k`, the
paper's smallest model. A value without a name is the same in all five.
"""
Schema = dict[str, Any]


def lines() -> Iterator[str]:
    """Yield the lines of the page below its title: a table for each section, and the list of presets."""
    yield from INTRODUCTION.splitlines()
    schema = Params.model_json_schema(by_alias=True)
    values = {name: presets.load(name).model_dump(mode="json", by_alias=True) for name in SHOWN}
    for name, section in schema["properties"].items():
        yield from _section(schema["$defs"], section, name, {preset: tree[name] for preset, tree in values.items()})
    yield from ("", "## Presets", "", "| Preset | What it is for |", "| --- | --- |")
    yield from (f"| `{name}` | {presets.about(name)} |" for name in presets.names())


def _section(defs: Schema, section: Schema, path: str, values: dict[str, Any]) -> Iterator[str]:
    """Yield a section's heading, the table of its values, and the sections inside it; `values` are by preset."""
    yield from ("", f"{_heading(path)} `{path}`", "", section["description"])
    fields = _fields(defs, section["$ref"])
    leaves = {name: field for name, field in fields.items() if "$ref" not in field}
    if leaves:
        yield from ("", "| Name | Type and range | Presets | Description |", "| --- | --- | --- | --- |")
    for name, field in leaves.items():
        found = _grouped({preset: tree[name] for preset, tree in values.items()})
        yield f"| `{name}` | {_type(field)} | {found} | {_escaped(field['description'])} |"
    for name, field in fields.items():
        inner = f"{path}.{name}"
        if "$ref" in field:
            yield from _section(defs, field, inner, {preset: tree[name] for preset, tree in values.items()})
        elif "$ref" in field.get("items", {}):
            yield from ("", f"{_heading(inner)} Entries of `{inner}`", "")
            yield from ("| Name | Type and range | Description |", "| --- | --- | --- |")
            for part, entry in _fields(defs, field["items"]["$ref"]).items():
                yield f"| `{part}` | {_type(entry)} | {_escaped(entry['description'])} |"


def _heading(path: str) -> str:
    return "#" * (path.count(".") + 2)


def _fields(defs: Schema, reference: str) -> dict[str, Schema]:
    fields: dict[str, Schema] = defs[reference.rpartition("/")[2]]["properties"]
    return fields


def _grouped(values: dict[str, Any]) -> str:
    """Return each different value with the names of the presets that have it; the most common one comes last."""
    groups: dict[str, list[str]] = {}
    for name, value in values.items():
        groups.setdefault(f"`{_spelled(value)}`", []).append(name)
    *fewer, (common, names) = sorted(groups.items(), key=lambda group: len(group[1]))
    if not fewer:
        return common
    parts = [f"{value} {', '.join(found)}" for value, found in fewer]
    return "<br>".join([*parts, f"{common} {'others' if len(names) > 1 else names[0]}"])


def _spelled(value: Any) -> str:
    """Return a value as params.yaml has it; a list of sections by its length."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case float():
            return presets.spell(value)
        case [dict(), *_]:
            return f"{len(value)} entries"
        case list():
            return f"[{', '.join(map(_spelled, value))}]"
    return str(value)


def _type(field: Schema) -> str:
    """Return type and range of a field of the JSON schema."""
    if "anyOf" in field:
        return " or ".join(map(_type, field["anyOf"]))
    if "enum" in field:
        *rest, last = (f"`{value}`" for value in field["enum"])
        return f"{', '.join(rest)} or {last}"
    if "prefixItems" in field:
        ranges = [_range(part) for part in field["prefixItems"]]
        kind = TYPES[field["prefixItems"][0]["type"]]
        same = len(set(ranges)) == 1
        return f"{len(ranges)} {kind}s, {f'each {ranges[0]}' if same else ', '.join(ranges)}"
    match field["type"]:
        case "null":
            return "`null`"
        case "array":
            item = field["items"]
            return "list of entries" if "$ref" in item else f"list of {TYPES[item['type']]}s {_range(item)}".strip()
        case "string" if "pattern" in field:
            return f"string that matches <code>{_escaped(field['pattern'])}</code>"
    return f"{TYPES[field['type']]} {_range(field)}".strip()


def _range(field: Schema) -> str:
    """Return the bounds of a number."""
    low, high = field.get("minimum"), field.get("maximum")
    if low is not None and high is not None:
        return f"from {low:g} to {high:g}"
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    # `int`, as :g would round 2**32.
    return ", ".join(
        f"{sign} {int(field[key]) if field[key] == int(field[key]) else field[key]}"
        for key, sign in signs.items()
        if key in field
    )


def _escaped(text: str) -> str:
    return text.replace("|", "&#124;").replace("*", "&#42;")
