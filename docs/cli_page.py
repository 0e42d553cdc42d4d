"""The page of the command line, from the parser of the `franca` command."""

import argparse
import textwrap
from collections.abc import Iterator

from franca.arguments import parser

WIDTH = 90
HIDDEN = (argparse._HelpAction, argparse._SubParsersAction)
INTRODUCTION = """\
The exit code is 0 on success, 2 with one line for an error that you can fix, 75 if a run was asked to stop and can
resume, and 1 for an unexpected error. `franca promote` exits with 3 if the gates failed, and with 4 if they hold and a
person has to approve the version. `franca doctor` exits with 1 if it found a problem, and
`franca drift` with 4 if it found drift. `franca COMMAND --help` prints the same texts as this page.

Options in front of the command apply to all commands:
"""


def lines() -> Iterator[str]:
    """Yield the lines of the page below its title: usage and arguments of each command."""
    main = parser()
    yield from INTRODUCTION.splitlines()
    yield ""
    yield from _usage(main, "franca")
    yield from _arguments(main)
    yield from _commands(main, "franca", "##")


def _commands(command: argparse.ArgumentParser, name: str, heading: str) -> Iterator[str]:
    """Yield the lines of all commands below a parser."""
    for group in _groups(command):
        helps = {choice.dest: choice.help or "" for choice in group._choices_actions}
        for word, child in group.choices.items():
            text = helps[word]
            yield from ("", f"{heading} `{name} {word}`", "", f"{text[:1].upper()}{text[1:]}.")
            if any(not isinstance(action, argparse._HelpAction) for action in child._actions):
                yield ""
                yield from _usage(child, f"{name} {word}")
                yield from _arguments(child)
            yield from _commands(child, f"{name} {word}", f"{heading}#")


def _groups(command: argparse.ArgumentParser) -> list[argparse._SubParsersAction]:
    return [action for action in command._actions if isinstance(action, argparse._SubParsersAction)]


def _usage(command: argparse.ArgumentParser, name: str) -> Iterator[str]:
    # Not argparse's own usage: its line breaks depend on the terminal and on Python's version.
    parts = [name]
    for action in command._actions:
        if isinstance(action, HIDDEN):
            continue
        spelled = " ".join([*action.option_strings[:1], _values(action)]).strip()
        needed = action.required if action.option_strings else action.nargs not in ("*", "?")
        parts.append(spelled if needed else f"[{spelled}]")
    parts += [str(group.metavar) for group in _groups(command)]
    whole = " ".join(part.replace(" ", "\0") for part in parts)
    yield "```text"
    yield from (line.replace("\0", " ") for line in textwrap.wrap(whole, WIDTH, subsequent_indent="    "))
    yield "```"


def _values(action: argparse.Action) -> str:
    """Return the names of an action's values as a usage line has them."""
    if action.nargs == 0:
        return ""
    choices = "{" + ",".join(map(str, action.choices)) + "}" if action.choices else action.dest.upper()
    name = str(action.metavar or choices)
    if isinstance(action.nargs, int):
        return " ".join([name] * action.nargs)
    return f"{name} ..." if action.nargs in ("*", "+") else name


def _arguments(command: argparse.ArgumentParser) -> Iterator[str]:
    """Yield a table of the arguments, nothing if there are none."""
    actions = [action for action in command._actions if not isinstance(action, HIDDEN)]
    if actions:
        yield from ("", "| Argument | Meaning |", "| --- | --- |")
    for action in actions:
        values = _values(action)
        names = [f"`{option} {values}`".replace(" `", "`") for option in action.option_strings] or [f"`{values}`"]
        text = (action.help or "").replace("|", "&#124;")
        required = " (required)" if action.option_strings and action.required else ""
        yield f"| {', '.join(names)} | {text}{required} |"
