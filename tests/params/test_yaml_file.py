"""Malformed parameter files: one line, exit code 2, at once."""

import json
import time
from pathlib import Path

import pytest

from franca.cli import main
from franca.yaml_file import MAX_BYTES, read_yaml
from tests.conftest import MakeValues


def bomb(first: str, link: str) -> str:
    """Nine levels, each of which stands for nine of the one before: 400 million values in 400 bytes."""
    levels = (f"a{i}: &a{i} " + link.format(", ".join([f"*a{i - 1}"] * 9)) for i in range(1, 10))
    return "\n".join([f"a0: &a0 {first}", *levels])


MALFORMED = {
    "an alias in itself": (
        "base: &b\n  x: *b\n",
        " line 1: not valid YAML: an alias stands for a value that contains it",
    ),
    "an alias in its list": ("&a [*a]", " line 1: not valid YAML: an alias stands for a value that contains it"),
    "an alias in its key": (
        "a: 1\n? &k [*k]\n: 1",
        " line 2: not valid YAML: an alias stands for a value that contains it",
    ),
    "an alias merged into itself": ("base: &b\n  <<: *b", " line 1: not valid YAML: an alias stands for a value that"),
    "aliases in each other": (
        "a: &a {b: &b {a: *a, c: *b}}",
        " line 1: not valid YAML: an alias stands for a value that",
    ),
    "nested lists": (bomb("[1, 2]", "[{}]"), ": not valid YAML: more than 20,000 values"),
    "nested merges": (bomb("{x: 1}", "{{<<: [{}]}}"), ": not valid YAML: more than 20,000 values"),
    "many aliases": (f"a: &a [{'1, ' * 99}1]\nb: [{'*a, ' * 999}*a]", ": not valid YAML: more than 20,000 values"),
    "an unknown alias": ("base: *x", " line 1: not valid YAML: found undefined alias 'x'"),
    "deep brackets": ("[" * 500, ": not valid YAML: nested too deeply"),
    "many brackets": ("[" * 5000, ": more than 500 brackets; "),
    "deep blocks": ("- " * 5000, ": not valid YAML: nested too deeply"),
    "two documents": (
        "a: 1\n---\nb: 2",
        " line 2: not valid YAML: expected a single document in the stream, but found",
    ),
    "a scalar": ("hello", ": not a mapping of sections; "),
    "a comment": ("# nothing", ": empty; "),
    "a tab": ("base:\n\tseed: 1", " line 2: not valid YAML: found character '\\t' that cannot start any token"),
    "a conflict of git": ("<<<<<<< HEAD\nbase: 1\n=======\n", " line 2: not valid YAML: "),
    "an integer too long": ("base: " + "9" * 5000, ": not valid YAML: invalid value: Exceeds the limit (4300 digits)"),
    "a month too many": ("base: 2026-13-01", ": not valid YAML: invalid value: month must be in 1..12"),
    "bad base64": ("base: !!binary abc%", " line 1: not valid YAML: failed to decode base64 data"),
    "no integer": ("base: !!int abc", ": not valid YAML: invalid value: invalid literal for int()"),
    "no character": ('base: "\\UFFFFFFFF"', ": not valid YAML: invalid value: "),
    "a merge of no mapping": ("base: {<<: 3}", " line 1: not valid YAML: expected a mapping"),
    "a mapping as a key": ("? {a: 1}\n: 2", " line 1: not valid YAML: found unhashable key"),
    "another version": ("%YAML 3.0\n---\na: 1", " line 1: not valid YAML: found incompatible YAML document"),
    "a large file": ("# comment\n" * 20_000, f": larger than {MAX_BYTES // 1024} KiB; "),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_file_is_one_line(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, reason = MALFORMED[name]
    path = tmp_path / "params.yaml"
    path.write_text(text)
    start = time.monotonic()
    assert main(["--params", str(path), "params", "check"]) == 2
    assert time.monotonic() - start < 5
    output, line = capsys.readouterr()
    assert not output and line.startswith(f"franca: {path}{reason}") and line.count("\n") == 1 and len(line) < 500


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_another_encoding(encoding: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes("# é\nbase: 1".encode(encoding))
    assert main(["--params", str(path), "params", "check"]) == 2
    assert capsys.readouterr().err == f"franca: {path}: not valid YAML: not text in UTF-8\n"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (".nan", "base.seed: input should be a finite number, not NaN"),
        ("1e999", "base.seed: input should be a finite number, not Infinity"),
        ("yes", 'base.seed: input should be a valid integer, unable to parse string as an integer, not "yes"'),
        ("2026-11-27", 'base.seed: input should be a valid integer, not "2026-11-27"'),
        ("{2026-11-27: 1}", "base.seed: input should be a valid integer, not a value of type dict"),
        ("!!binary aGk=", 'base.seed: input should be a valid integer, unable to parse string as an integer, not "b'),
        (
            "0x" + "f" * 5000,
            "base.seed: input should be less than 4294967296, not a value of type int",
        ),
        ("1000000000000000000000", "base.seed: input should be less than 4294967296, not 1000000000000000000000"),
    ],
    ids=["nan", "infinity", "yes", "date", "date as a key", "bytes", "hexadecimal", "large"],
)
def test_a_value_of_another_kind_is_one_line(
    value: str, shown: str, tmp_path: Path, tiny_values: MakeValues, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(json.dumps(tiny_values({"base.seed": "HERE"})).replace('"HERE"', value))
    assert main(["--params", str(path), "params", "check"]) == 2
    line = capsys.readouterr().err
    assert line.startswith(f"franca: {path}: {shown}") and line.count("\n") == 1


def test_a_key_that_would_break_the_line(
    tmp_path: Path, tiny_values: MakeValues, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(json.dumps({**tiny_values(), "a\nb" + "c" * 500: 1}))
    assert main(["--params", str(path), "params", "check"]) == 2
    line = capsys.readouterr().err
    assert line.startswith(f'franca: {path}: "a\\nbccc') and line.count("\n") == 1 and len(line) < 300 + len(str(path))


def test_what_is_well_formed_stays_so(tmp_path: Path) -> None:
    path = tmp_path / "some.yaml"
    path.write_bytes(
        b"\xef\xbb\xbf---\r\na: &a {x: 1}\r\nb: *a\r\nc: {<<: *a, y: 1e-5}\r\nd: &a on\r\ne: *a\r\n...\r\n"
    )
    assert read_yaml(path) == {"a": {"x": 1}, "b": {"x": 1}, "c": {"x": 1, "y": 1e-5}, "d": "on", "e": "on"}


def test_a_folder_is_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--params", str(tmp_path), "params", "check"]) == 2
    assert capsys.readouterr().err == f"franca: {tmp_path}: Is a directory; give a YAML file\n"
