"""Change keys of a YAML file in its text, so that all other lines stay as they are, byte for byte.

A round trip through a parser would move comments between keys and reformat lists, quotes and numbers.
"""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from ruamel.yaml.nodes import CollectionNode, MappingNode, Node, ScalarNode, SequenceNode

Path = tuple[str | int, ...]

_ALIAS = re.compile(r"\s*:\s*\*[^\s,\[\]{}]+")


class Edit(NamedTuple):
    """Replace text[start:end] by `text`."""

    start: int
    end: int
    text: str


class Editor:
    """Collects changes of keys of one document, and applies them all at once.

    Mappings that are aliases or are merged from elsewhere have no place of their own. What is added to them lands at
    their anchor, so compare the result with what you wanted.
    """

    def __init__(self, text: str, root: Node) -> None:
        """`root` is the document's node, with the places of all nodes in `text`."""
        self._newline = "\r\n" if "\r\n" in text else "\n"
        self._text, self._root = text if text.endswith("\n") else text + self._newline, root
        self._edits: list[Edit] = []

    def add(self, parent: Path, key: str, value: Any, lines: Sequence[str], before: Sequence[str]) -> None:
        """Add a key to a mapping.

        Args:
            parent: Path of the mapping.
            key: The new key.
            value: Its value, for a mapping in braces.
            lines: Comment, key and value as YAML lines without indentation, for a mapping in block style.
            before: Keys that the new one goes after, if they are there, the nearest first.
        """
        mapping = self._node(parent)
        places = {name.value: (name, node) for name, node in mapping.value}
        previous = next((places[name] for name in before if name in places), None)
        if mapping.flow_style:
            self._add_flow(mapping, previous, key, value)
        else:
            self._add_block(mapping, previous, lines)

    def remove(self, path: Path, comments: Sequence[str]) -> None:
        """Remove a key and its value; the line above it too if it is one of `comments`, but no other comment."""
        mapping = self._node(path[:-1])
        index = next(i for i, (name, _) in enumerate(mapping.value) if name.value == path[-1])
        name, node = mapping.value[index]
        start, end = name.start_mark.index, self._end(name, node)
        if mapping.flow_style:
            if index + 1 < len(mapping.value):
                end = mapping.value[index + 1][0].start_mark.index
            elif index:
                start = self._end(*mapping.value[index - 1])
            self._edits.append(Edit(start, end, ""))
            return
        line, rest = self._line_start(start), self._text[end : self._line_end(end)]
        if self._text[line:start].strip():  # the first key of a list item: `- key: value`
            following = mapping.value[index + 1][0].start_mark.index
            self._edits.append(Edit(start, following, ""))
            return
        above = self._line_start(max(line - 1, 0))
        if self._text[above:line].strip().removeprefix("#").strip() in comments:
            line = above
        if comment := rest.strip():
            self._edits.append(Edit(line, end + len(rest), self._text[self._line_start(start) : start] + comment))
        else:
            self._edits.append(Edit(line, self._after_line(end), ""))

    def apply(self) -> str:
        """Return the changed text."""
        text = self._text
        # From the end, so that places stay valid; of those at one place a removal first, then the last addition.
        self._edits.sort(key=lambda edit: edit[:2])
        for edit in reversed(self._edits):
            text = text[: edit.start] + edit.text + text[edit.end :]
        return text

    def _add_flow(self, mapping: MappingNode, previous: tuple[Node, Node] | None, key: str, value: Any) -> None:
        item = f"{json.dumps(key)}: {json.dumps(value)}"  # JSON is YAML too
        if previous:
            end = self._end(*previous)
            self._edits.append(Edit(end, end, f", {item}"))
        else:
            start = mapping.start_mark.index + 1
            self._edits.append(Edit(start, start, f"{item}, " if mapping.value else item))

    def _add_block(self, mapping: MappingNode, previous: tuple[Node, Node] | None, lines: Sequence[str]) -> None:
        first = mapping.value[0][0]
        indent = " " * first.start_mark.column
        indented = [f"{indent}{line}" if line else "" for line in lines]
        if previous:
            start = self._after_line(self._end(*previous))
            added = "".join(f"{line}{self._newline}" for line in indented)
        elif self._text[self._line_start(first.start_mark.index) : first.start_mark.index].strip():
            start = first.start_mark.index  # the first key of a list item: `- key: value`
            added = "".join(f"{line}{self._newline}{indent}" for line in lines)
        else:
            start = self._above_comments(first.start_mark.index)
            added = "".join(f"{line}{self._newline}" for line in indented)
        self._edits.append(Edit(start, start, added))

    def _node(self, path: Path) -> MappingNode:
        node: Any = self._root
        for part in path:
            if isinstance(node, SequenceNode):
                node = node.value[int(part)]
            else:
                node = next(value for name, value in node.value if name.value == part)
        return node

    def _end(self, name: Node, node: Node) -> int:
        """Where a key's value ends, comments behind it left out."""
        if node.start_mark.index < name.end_mark.index:
            found = _ALIAS.match(self._text, name.end_mark.index)
            return found.end() if found else name.end_mark.index
        if isinstance(node, CollectionNode) and not node.flow_style and node.value:
            last = node.value[-1]
            return self._end(*last) if isinstance(last, tuple) else self._end(name, last)
        end: int = node.end_mark.index
        if isinstance(node, ScalarNode) and node.style in ("|", ">"):
            end = node.start_mark.index + len(self._text[node.start_mark.index : end].rstrip())
        return end

    def _line_start(self, index: int) -> int:
        return self._text.rfind("\n", 0, index) + 1

    def _line_end(self, index: int) -> int:
        found = self._text.find("\n", index)
        return len(self._text) if found < 0 else found - (self._text[found - 1] == "\r")

    def _after_line(self, index: int) -> int:
        found = self._text.find("\n", index)
        return len(self._text) if found < 0 else found + 1

    def _above_comments(self, index: int) -> int:
        """Start of the comment lines directly above a line, or of the line itself."""
        start = self._line_start(index)
        while start and self._text[(above := self._line_start(start - 1)) : start].lstrip().startswith("#"):
            start = above
        return start


def walk(tree: Any, pattern: str) -> Iterator[Path]:
    """Yield the paths in a tree that a dotted path stands for, in which `[]` means each item of a list.

    The last key need not exist, but the mapping that it belongs to.
    """
    yield from _walk(tree, tuple(pattern.replace("[]", ".[]").split(".")), ())


def _walk(tree: Any, parts: Path, path: Path) -> Iterator[Path]:
    first, *rest = parts
    if first == "[]" and isinstance(tree, list):
        for index, item in enumerate(tree):
            yield from _walk(item, tuple(rest), (*path, index))
    elif isinstance(tree, dict) and not rest:
        yield (*path, first)
    elif isinstance(tree, dict) and first in tree:
        yield from _walk(tree[first], tuple(rest), (*path, first))
