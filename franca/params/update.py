"""The `franca params update` command: bring a parameter file of an older version up to date."""

import copy
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel
from ruamel.yaml.comments import CommentedMap

from franca.errors import FrancaError, Outdated
from franca.files import atomic_path
from franca.params.history import ADDED, REPLACED, get
from franca.params.reading import as_tree, parse_params, update_command
from franca.params.render import commented, dump, plain
from franca.params.section import by_key, item_of, section_of
from franca.params.tree import Params
from franca.yaml_edit import Editor, walk
from franca.yaml_edit import Path as Keys
from franca.yaml_file import parse_yaml, read_content

Tree = dict[str, Any]


class Change(NamedTuple):
    """A key that is added with its value, or removed; `keys` is its path."""

    keys: Keys
    sentence: str
    """What to print; empty if another change's sentence says it"""
    remove: bool = False
    comments: tuple[str, ...] = ()


def run(path: Path, preset: Tree | None, check: bool) -> None:
    """Add the keys that a file lacks, remove those of older versions, and print each change.

    All other lines stay as they are. On any error the file is not touched.

    Args:
        path: The file.
        preset: Tree whose values the missing keys get; None for values with which a run does what it did before.
        check: Only print what would change.

    Raises:
        Outdated: `check`, and the file is not up to date.
        FrancaError: The file is invalid beyond what an update repairs, or has no place for a key.
    """
    content = read_content(path)
    new, changes = update(content, path, preset)
    if changes and not check:
        _replace(path, new)
    sentences = [change.sentence for change in changes if change.sentence]
    for sentence in sentences:
        print(f"{path}: {sentence}")
    if not changes:
        print(f"{path}: up to date")
    elif check:
        raise Outdated(f"{path}: out of date ({len(sentences)} changes); run `{update_command(path)}`")


def update(content: bytes, path: Path, preset: Tree | None) -> tuple[bytes, list[Change]]:
    """Return the content of an up-to-date file and the changes that lead there; `path` is for messages."""
    root, values = parse_yaml(content, path)
    tree = as_tree(values, path)
    wanted = copy.deepcopy(tree)
    changes = [*_replace_keys(wanted), *_add_keys(wanted, preset, path)]
    params = parse_params(wanted, str(path))
    if not changes:
        return content, []

    text = content.decode("utf-8-sig")
    assert root is not None
    editor = Editor(text, root)
    # As a preset is written: 8.0 and not 8 where a field is a float.
    final = params.model_dump(mode="json", by_alias=True)
    for change in changes:
        try:
            if change.remove:
                editor.remove(change.keys, change.comments)
            else:
                *parent, key = change.keys
                value = _at(final, change.keys)
                lines, before = _rendered(tuple(parent), str(key), value)
                editor.add(tuple(parent), str(key), value, lines, before)
        except (KeyError, AttributeError, StopIteration, TypeError):  # merged from an anchor elsewhere
            raise _no_place(path, changes) from None
    mark = b"\xef\xbb\xbf" if content.startswith(b"\xef\xbb\xbf") else b""
    new = mark + editor.apply().encode()
    try:
        same = parse_yaml(new, path)[1] == wanted
    except FrancaError:
        same = False
    if not same:
        raise _no_place(path, changes)
    return new, changes


def _replace_keys(tree: Tree) -> Iterator[Change]:
    """Take the keys of older versions out of the tree, and set those that took their place."""
    for old, replaced in REPLACED.items():
        section, key = get(tree, old.rpartition(".")[0]), old.rpartition(".")[2]
        if not isinstance(section, dict) or key not in section:
            continue
        new = replaced.key.rpartition(".")[2]
        value = replaced.convert(tree)
        before = section.pop(key)
        home = get(tree, replaced.key.rpartition(".")[0])
        gone = Change(tuple(old.split(".")), f"{old}: removed ({_json(before)})", True, replaced.comments)
        if isinstance(home, dict) and new not in home:
            home[new] = value
            yield gone._replace(sentence=f"{old}: {_json(before)} became {replaced.key}: {_json(value)}")
            yield Change(tuple(replaced.key.split(".")), "")
        else:
            yield gone


def _add_keys(tree: Tree, preset: Tree | None, path: Path) -> list[Change]:
    """Add the keys that the tree lacks; raises FrancaError if nothing says which value one had before."""
    changes, unknown = [], []
    for keys, pattern in list(_missing(tree)):
        section = _at(tree, keys[:-1])
        value = get(preset, pattern)
        if preset is None or "[]" in pattern:
            if pattern not in ADDED:
                unknown.append(".".join(map(str, keys)))
                continue
            value = ADDED[pattern](tree)
        section[keys[-1]] = copy.deepcopy(value)
        changes.append(Change(keys, f"{'.'.join(map(str, keys))}: added, {_json(value)}"))
    if unknown:
        raise FrancaError(
            f"{path}: every version of Franca requires {', '.join(unknown)}; add the values, or take all that are"
            f" missing from a preset by `{update_command(path)} --preset NAME`"
        )
    return changes


def _missing(tree: Tree) -> Iterator[tuple[Keys, str]]:
    """The paths of missing keys, a missing section as one key, and the dotted patterns of these paths."""

    def inside(model: type[BaseModel], pattern: str) -> Iterator[tuple[Keys, str]]:
        for key, field in by_key(model).items():
            here = f"{pattern}.{key}".lstrip(".")
            absent = [keys for keys in walk(tree, here) if keys[-1] not in _at(tree, keys[:-1])]
            yield from ((keys, here) for keys in absent)
            if part := section_of(field):
                yield from inside(part, here)
            elif part := item_of(field):
                yield from inside(part, f"{here}[]")

    return inside(Params, "")


def _rendered(parent: Keys, key: str, value: Any) -> tuple[list[str], list[str]]:
    """Lines of a key in block style without indentation, and the keys that it goes after, the nearest first."""
    model: type[BaseModel] = Params
    in_list = False
    for part in parent:
        if isinstance(part, int):
            in_list = True
            continue
        field = by_key(model)[part]
        model = section_of(field) or item_of(field) or model
    names = list(by_key(model))
    document = CommentedMap({key: plain(value)}) if in_list else commented(model, {key: value})
    return dump(document).splitlines(), names[: names.index(key)][::-1]


def _at(tree: Any, keys: Keys) -> Any:
    for part in keys:
        tree = tree[part]
    return tree


def _json(value: Any) -> str:
    return json.dumps(value) if not isinstance(value, Mapping) or not value else "the whole section"


def _no_place(path: Path, changes: list[Change]) -> FrancaError:
    lines = "; ".join(change.sentence for change in changes if change.sentence)
    return FrancaError(
        f"{path}: its anchors and merges leave no place for new keys; write out the aliases, or edit it yourself:"
        f" {lines}"
    )


def _replace(path: Path, content: bytes) -> None:
    """Replace a file, or the file that a link leads to; its mode stays."""
    target = Path(os.path.realpath(path))
    if not target.is_file():
        raise FrancaError(f"{path}: not a regular file; give a file that can be written")
    with atomic_path(target) as temporary:
        temporary.write_bytes(content)
        shutil.copymode(target, temporary)
