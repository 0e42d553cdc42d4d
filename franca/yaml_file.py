"""Read YAML files that a user wrote; whatever is wrong with one is a FrancaError of one line."""

import warnings
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, ReusedAnchorWarning, YAMLError
from ruamel.yaml.nodes import CollectionNode, Node

from franca.errors import FrancaError

MAX_BYTES = 1 << 17
"""Size limit of a file. Ours have less than 20 kB; the parser takes about 5 s for this many bytes."""
MAX_NODES = 20_000
"""Maximum number of values of a file, each alias counted with all values it stands for. Ours have about 200."""
MAX_BRACKETS = 500
"""Maximum number of opening brackets and braces. Ours have about 30; the parser's time grows with their square."""


def read_yaml(path: Path) -> Any:
    """Parse a YAML 1.2 file of one document (1e-5 is a number there).

    Raises:
        FrancaError: There is no such file, or it is not valid YAML, too large, or its aliases contain themselves or
            stand for too many values.
    """
    return parse_yaml(read_content(path), path)[1]


def read_content(path: Path) -> bytes:
    """Read a file of at most `MAX_BYTES`; raises FrancaError."""
    try:
        # Read through a handle and not by size, which a pipe (`--params <(...)`) or a device does not have.
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise FrancaError(f"{path}: no such file; `franca params use overhead-cpu` writes one") from None
    except OSError as error:
        raise FrancaError(f"{path}: {error.strerror or error}; give a YAML file") from None
    if len(content) > MAX_BYTES:
        raise FrancaError(f"{path}: larger than {MAX_BYTES // 1024} KiB; give a YAML file of parameters")
    return content


def parse_yaml(content: bytes, path: Path) -> tuple[Node | None, Any]:
    """Return the nodes of a document, which know their places in the text, and its value; raises FrancaError.

    Args:
        content: UTF-8 text, with or without a byte order mark.
        path: Name of the file, for error messages.
    """
    if content.count(b"[") + content.count(b"{") > MAX_BRACKETS:
        raise FrancaError(f"{path}: more than {MAX_BRACKETS} brackets; give a YAML file of parameters")
    try:
        return _parse(content)
    except Exception as error:  # bad scalars make the parser raise nearly anything
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        where = f" line {mark.line + 1}" if mark else ""
        raise FrancaError(f"{path}{where}: not valid YAML: {_reason(error)}") from None


def _parse(content: bytes) -> tuple[Node | None, Any]:
    yaml = YAML(typ="safe", pure=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ReusedAnchorWarning)  # allowed by YAML: the later anchor counts
        root = yaml.compose(content.decode("utf-8-sig"))
    if root is None:
        return None, None
    # Aliases are references to nodes, so that counting is cheap. Merging, validating and printing them is not.
    count = _count(root, {}, set())
    if count > MAX_NODES:
        raise YAMLError(f"more than {MAX_NODES:,} values")
    return root, yaml.constructor.construct_document(root)


def _count(node: Node, known: dict[Node, int], parents: set[Node]) -> int:
    """Return the number of nodes of a tree with its aliases written out. Raises YAMLError if one contains itself."""
    if node in parents:
        raise MarkedYAMLError(problem="an alias stands for a value that contains it", problem_mark=node.start_mark)
    if node not in known:
        items = node.value if isinstance(node, CollectionNode) else ()
        children = (child for item in items for child in (item if isinstance(item, tuple) else (item,)))
        known[node] = 1 + sum(_count(child, known, parents | {node}) for child in children)
    return known[node]


def _reason(error: Exception) -> str:
    """Return what the parser says is wrong in one line, without its advice to programmers."""
    match error:
        case RecursionError():
            text = "nested too deeply"
        case UnicodeDecodeError():
            text = "not text in UTF-8"
        case MarkedYAMLError():
            problem = error.problem or "syntax error"
            text = f"{error.context}, {problem}" if error.context and problem.startswith("but ") else problem
        case YAMLError():
            text = str(error).partition("\n")[0]
        case _:
            text = f"invalid value: {error}".partition(";")[0]
    line = "".join(character if character.isprintable() else "?" for character in " ".join(text.split()))
    return line if len(line) <= 200 else f"{line[:197]}..."
