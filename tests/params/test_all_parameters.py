"""The parameters as a whole: each is described, required, read by some code, and in the schema of the repository."""

import ast
import json
import subprocess
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from franca.params import Params

ROOT = Path(__file__).parents[2]


def fields(model: type[BaseModel], path: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Dotted path of every field, sections included; `[]` stands for an item of a list, `NAME` for a user's key."""
    for name, field in model.model_fields.items():
        here = f"{path}.{field.alias or name}".lstrip(".")
        yield here, field
        for kind in (field.annotation, *typing.get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                part = ".NAME" if typing.get_origin(field.annotation) is dict else "[]"
                yield from fields(kind, here if kind is field.annotation else here + part)


def is_section(field: FieldInfo) -> bool:
    return isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)


LEAVES = {path: field for path, field in fields(Params) if not is_section(field)}


def test_every_field_says_what_it_is_in_a_sentence() -> None:
    for path, field in fields(Params):
        assert field.description and field.description[0].isupper() and field.description.endswith("."), path


def test_every_field_is_required() -> None:
    assert [path for path, field in fields(Params) if not field.is_required()] == []


def attributes() -> set[str]:
    """Names that are read from some object in the code; in the models' own files, validators left out."""
    found = set()
    for file in [*ROOT.glob("franca/**/*.py"), *ROOT.glob("flows/**/*.py")]:
        tree = ast.parse(file.read_text())
        in_models = file.parent == ROOT / "franca/params"
        nodes = [node for node in tree.body if isinstance(node, ast.FunctionDef)] if in_models else [tree]
        found |= {part.attr for node in nodes for part in ast.walk(node) if isinstance(part, ast.Attribute)}
    return found


def test_every_field_is_read_somewhere() -> None:
    read = attributes()
    assert [path for path in LEAVES if path.rpartition(".")[2] not in read] == []


def test_the_schema_in_the_repository_is_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "franca", "params", "schema"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert (ROOT / "params.schema.json").read_text() == result.stdout
    schema: dict[str, Any] = json.loads(result.stdout)
    assert schema["additionalProperties"] is False
    assert set(schema["properties"]) == set(Params.model_json_schema()["properties"])
