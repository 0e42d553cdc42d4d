"""What a check of `franca doctor` has found."""

from typing import Literal, NamedTuple

Level = Literal["ok", "warning", "problem"]


class Finding(NamedTuple):
    """One line of the result.

    Attributes:
        check: What was looked at, in a word or two.
        level: `ok`; `warning` for what works but costs something; `problem` for what fails now or will.
        text: What was found.
        fix: What to type or change; empty for `ok`.
    """

    check: str
    level: Level
    text: str
    fix: str = ""


def ok(check: str, text: str) -> Finding:
    """Return a finding that needs no action."""
    return Finding(check, "ok", text)


def warning(check: str, text: str, fix: str) -> Finding:
    """Return a finding that works, but costs something."""
    return Finding(check, "warning", text, fix)


def problem(check: str, text: str, fix: str) -> Finding:
    """Return a finding that fails now or will."""
    return Finding(check, "problem", text, fix)
