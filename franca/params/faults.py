"""Errors of pydantic as lines for people: the key's path, what is wrong, and the value."""

import difflib
import json
from typing import Any

from pydantic import BaseModel, ValidationError

from franca.params.base import TAGS
from franca.params.section import by_key, entry_of, item_of, section_of


def fault_lines(error: ValidationError, root: type[BaseModel]) -> list[str]:
    """Return one line for each fault of a tree that was validated as `root`."""
    lines = []
    for fault in error.errors(include_url=False):
        location = tuple(part for part in fault["loc"] if part not in TAGS)
        where = ".".join(_shown(part) for part in location) or "params"
        value = _spelled(fault["input"])
        message = fault["msg"].removeprefix("Value error, ")
        match fault["type"]:
            case "missing":
                lines.append(f"{where}: missing key")
            case "extra_forbidden":
                lines.append(f"{where}: unknown key (value {value}){_suggestion(location, root)}")
            case "value_error":
                lines.append(f"{where}: {message}")
            case _:
                lines.append(f"{where}: {message[0].lower()}{message[1:]}, not {value}")
    return lines


def _shown(part: int | str) -> str:
    """A part of a key's path; a key that would break the line is quoted."""
    text = str(part)
    return _shorten(text if text.isprintable() else json.dumps(text))


def _spelled(value: Any) -> str:
    """A value as JSON, or its type if it has no such form (keys that are dates, integers of 5,000 digits)."""
    try:
        return _shorten(json.dumps(value, default=str))
    except (TypeError, ValueError):
        return f"a value of type {type(value).__name__}"


def _shorten(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."


def _suggestion(location: tuple[int | str, ...], root: type[BaseModel]) -> str:
    """The known key most like the last part of `location`, or all known keys."""
    model, named = root, False
    for part in location[:-1]:
        if named:  # the name of an entry, which is no field
            named = False
            continue
        field = by_key(model).get(str(part))
        if field and (inner := entry_of(field)):
            model, named = inner, True
        elif (field and (inner := section_of(field))) or (field and (inner := item_of(field))):
            model = inner
        elif not isinstance(part, int):
            return ""
    known = list(by_key(model))
    close = difflib.get_close_matches(str(location[-1]), known, n=1)
    return f"; did you mean {close[0]}?" if close else f"; known here: {', '.join(known)}"
