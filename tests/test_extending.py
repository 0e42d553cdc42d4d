"""The examples of docs/extending.md, applied together to a copy of the code."""

import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.documented import ROOT

PAGE = (ROOT / "docs/extending.md").read_text(encoding="utf-8")
PARTS = re.compile(
    r"`(?P<path>(?:franca/[\w/-]+|dvc)\.(?:py|yaml))`|^(?P<indent> *)```(?P<kind>py|diff)\n(?P<text>.*?)^ *```$",
    re.M | re.S,
)


class Example(NamedTuple):
    path: str
    """the file that the text before the block named last"""
    kind: str
    text: str

    @property
    def before(self) -> str:
        """The lines of a diff that the file has."""
        return "".join(line[1:] for line in self.text.splitlines(keepends=True) if not line.startswith("+"))

    @property
    def after(self) -> str:
        return "".join(line[1:] for line in self.text.splitlines(keepends=True) if not line.startswith("-"))


def examples() -> Iterator[Example]:
    path = ""
    for part in PARTS.finditer(PAGE):
        if part["path"]:
            path = part["path"]
        else:
            yield Example(
                path, part["kind"], textwrap.dedent(part["indent"] + part["text"].removeprefix(part["indent"]))
            )


DIFFS = [example for example in examples() if example.kind == "diff"]


@pytest.mark.parametrize("diff", DIFFS, ids=[f"{number}-{diff.path}" for number, diff in enumerate(DIFFS)])
def test_diffs_fit_the_code(diff: Example) -> None:
    assert (ROOT / diff.path).read_text(encoding="utf-8").count(diff.before) == 1


CHECK = """
import csv
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from franca.data.ingest.prepare import prepare
from franca.evaluation.benchmarks import centroid
from franca.evaluation.features import FeatureExtractor, FeatureSet, SplitFeatures
from franca.files import read_json
from franca.formats.export import export
from franca.formats.state_dict import PREFIXES
from franca.losses.variance import variance_loss
from franca.models import random_model, save_model
from franca.presets import load
from franca.stages import describe

params = load("overhead-cpu")
assert params.evaluate.rank_images == 4000 and params.pretrain.losses.variance_weight == 0 and "encoder." in PREFIXES
assert variance_loss(torch.ones(8, 4)) > 0.9 and variance_loss(3 * torch.randn(999, 4)) == 0

labels = torch.arange(30) % 3
part = SplitFeatures(torch.eye(3)[labels], labels, torch.empty(0, 1, 1, 3))
features = FeatureSet(["a", "b", "c"], {"train": part, "val": part, "test": part})
extractor = FeatureExtractor("franca", lambda images: images, 32, 8)
scores = centroid.run(extractor, features, params).measurements
assert [(score.split, score.value) for score in scores] == [("val", 100.0), ("test", 100.0)]

rows = [{"path": f"{i}.png", "class": "ab"[i % 2], "split": ("train", "val", "test")[i // 4]} for i in range(12)]
rng = np.random.default_rng(0)
for row in rows:
    Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(row["path"])
with open("images.csv", "w", newline="") as file:
    writer = csv.DictWriter(file, ["path", "class", "split"])
    writer.writeheader()
    writer.writerows(rows)
manifest = prepare(params.prepare.model_copy(update={"source": "images.csv", "dense_source": None}), Path("prepared"))
assert manifest["classes"] == ["a", "b"] and manifest["counts"]["val"]["images"] == 4

model = random_model(params.base)
export(model, "npz", Path("out"))
assert len(np.load("out/model.npz")) == len(model.backbone.state_dict())
save_model(model, Path("models/franca"))
describe.run(params)
assert read_json(Path("results/describe/metrics.json"))["parameters"] > 1e6
print("all work")
"""


@pytest.mark.slow
def test_examples_work_together(tmp_path: Path) -> None:
    code = tmp_path / "code"
    for name in ("franca", "tests/params", "tests/test_layout.py", "tests/__init__.py", "flows", "docs"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, code / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.exists():
            (code / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, code / name)
    for name in ("dvc.yaml", "pyproject.toml"):
        shutil.copy(ROOT / name, code / name)
    for example in examples():
        path = code / example.path
        if example.kind == "py":
            assert not path.exists()
            path.write_text(example.text, encoding="utf-8")
        else:
            text = path.read_text(encoding="utf-8")
            assert text.count(example.before) == 1, example
            path.write_text(text.replace(example.before, example.after), encoding="utf-8")

    def run(*command: str) -> str:
        done = subprocess.run(
            command, cwd=code, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(code)}
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout

    (code / "params.schema.json").write_text(run(sys.executable, "-m", "franca", "params", "schema"))
    run(sys.executable, "-m", "ruff", "check", "franca")
    run(sys.executable, "-m", "ruff", "format", "--check", "franca")
    # Without the test of .dvcignore, which needs a DVC repository.
    chosen = ("-k", "not compiled_python", "tests/test_layout.py", "tests/params/test_all_parameters.py")
    run(sys.executable, "-m", "pytest", "-q", *chosen)
    missing = "not in this format: architecture and normalization: weights alone are written"
    assert run(sys.executable, "-c", CHECK) == f"out: written, format npz\n{missing}\nall work\n"
