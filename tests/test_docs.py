"""What docs/models.md says about using a model runs as it stands there."""

import io
import re
import shlex
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pyarrow import parquet

from franca.cli import main
from franca.models import random_model, save_model
from tests.conftest import MakeParams

GUIDE = Path(__file__).parents[1] / "docs/models.md"


def blocks() -> list[tuple[str, str]]:
    """Language and text of each block of the section, in order."""
    section = GUIDE.read_text().partition("\n## Using a model\n")[2].partition("\n## ")[0]
    return re.findall(r"^```(\w+)\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)


def test_using_a_model(tiny_params: MakeParams, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    base = tiny_params({"base.backbone.embed_dim": 64, "base.backbone.depth": 4}).base
    save_model(random_model(base), Path("models/franca"))
    Path("photos").mkdir()
    for name in ("one.jpg", "two.jpg"):
        buffer = io.BytesIO()
        Image.effect_noise((48, 40), 50).convert("RGB").save(buffer, "JPEG")
        Path("photos", name).write_bytes(buffer.getvalue())
    names: dict[str, Any] = {}
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for language, text in blocks():
        if language == "python":
            exec(text, names)
            continue
        for line in text.splitlines():
            program, *arguments = shlex.split(line)
            assert program == "franca" and main(arguments) == 0, line
    for number, handler in before.items():
        signal.signal(number, handler)

    assert names["pooled"].shape == (2, 64) and names["patches"].shape == (2, 8, 12, 64)
    assert names["tokens"].shape == (2, names["prefix"] + 8 * 12, 64)
    assert [len(names[name]) for name in ("last4", "some", "raw")] == [4, 2, 1]
    assert names["vectors"].shape == (2, 64) and names["vectors"].dtype == np.float32
    short = parquet.read_table("short.parquet")
    assert short["path"].to_pylist() == ["one.jpg", "two.jpg"] and short.schema.field("embedding").type.list_size == 48
    assert {path.name for path in Path("maps").iterdir()} == {"one.jpg.png", "two.jpg.png"}
