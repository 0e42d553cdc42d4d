"""Command-line arguments that the commands for studies share."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from franca.errors import FrancaError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the study file and the choice of cells."""
    parser.add_argument("study", type=Path, help="study file, for example studies/heads.yaml")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=PATH", help="what ${NAME} stands for")
    parser.add_argument("--only", action="append", default=[], metavar="AXIS=OPTION", help="leave other cells out")


def variables_of(given: argparse.Namespace) -> tuple[dict[str, str], dict[str, str]]:
    """Return the values of --set and --only as mappings.

    Raises:
        FrancaError: One is not of the form NAME=VALUE.
    """
    return _pairs(given.set, "--set"), _pairs(given.only, "--only")


def run_command(main: Callable[[], None]) -> None:
    """Call a command's function; a FrancaError becomes a line on stderr and exit code 2."""
    try:
        main()
    except FrancaError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def _pairs(given: Sequence[str], flag: str) -> dict[str, str]:
    pairs = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise FrancaError(f"{flag} {text}: not of the form NAME=VALUE")
        pairs[name] = value
    return pairs
