"""The page of parameters, from the models behind params.yaml and the presets."""

import re
from collections.abc import Iterator
from typing import Any

from franca import presets
from franca.params.render import spell
from franca.presets.reference import FieldFacts, sections

SHOWN = ("overhead-cpu", "photos-cpu", "overhead-1gpu", "photos-1gpu", "vitb14-in21k")
"""Presets whose values the page shows."""
WORDS = {"integer", "number", "string", "boolean"}
INTRODUCTION = """\
This page lists every parameter of `params.yaml`, section by section. [params.yaml](params.md) explains how to write,
check and update the file.

The column "Presets" has the values of the four presets that `franca init` starts from and of `vitb14-in21k`, the
paper's smallest model. A value without a name is the same in all five.
"""


def lines() -> Iterator[str]:
    """Yield the lines of the page below its title: a table for each section, and the list of presets."""
    yield from INTRODUCTION.splitlines()
    for section in sections():
        heading = "#" * (section.key.count(".") + 2)
        yield from ("", f"{heading} `{section.key}`", "", section.description)
        if not section.fields:
            continue
        of_items = not section.fields[0].presets
        columns = ["Name", "Type and range", *([] if of_items else ["Presets"]), "Description"]
        yield from ("", f"| {' | '.join(columns)} |", "| --- " * len(columns) + "|")
        for field in section.fields:
            yield f"| {' | '.join(_cells(field))} |"
    yield from ("", "## Presets", "", "| Preset | What it is for |", "| --- | --- |")
    yield from (f"| `{name}` | {presets.about(name)} |" for name in presets.names())


def _cells(field: FieldFacts) -> list[str]:
    values = [_grouped({name: field.presets[name] for name in SHOWN})] if field.presets else []
    return [f"`{field.key.rpartition('.')[2]}`", _type(field), *values, _escaped(field.description)]


def _type(field: FieldFacts) -> str:
    """Return type and range: words as they are, the values of a choice as code."""
    parts = [part if part in WORDS or part.startswith("list of") else f"`{part}`" for part in field.type.split(" | ")]
    kind = f"{', '.join(parts[:-1])} or {parts[-1]}" if len(parts) > 1 else parts[0]
    if pattern := re.fullmatch(r"matches (.*)", field.bounds):
        return f"{kind} that matches <code>{_escaped(pattern[1])}</code>"
    bounds = field.bounds.replace(">=", "≥").replace("<=", "≤")
    return f"{kind}, {bounds}" if bounds else kind


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
            return spell(value)
        case [dict(), *_]:
            return f"{len(value)} entries"
        case list():
            return f"[{', '.join(map(_spelled, value))}]"
    return str(value)


def _escaped(text: str) -> str:
    return text.replace("|", "&#124;").replace("*", "&#42;")
