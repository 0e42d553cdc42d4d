"""Official numbers: a test marked `case(NAME)` gets that case's tensors, and a table of errors ends the run.

`FRANCA_DEVICE=cuda` computes everything on a GPU with the same tolerances. `FRANCA_CONFORMANCE_DIR` may name another
folder of the same format; tests of cases that it lacks are left out. Where all tests of this folder are asked for, the
last ones fail for whatever no test has compared. Processes of pytest-xdist do not send the table.
"""

import functools
import json
import os
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

DEVICE = torch.device(os.environ.get("FRANCA_DEVICE") or "cpu")
VECTORS = Path(os.environ.get("FRANCA_CONFORMANCE_DIR") or Path(__file__).parent / "vectors")
MARKER = "case(name): the case of the conformance vectors that the test needs"

_worst: dict[str, tuple[float, str]] = {}
"""Largest error of each case as a share of its tolerance, and the tensor that has it."""

_compared: dict[str, set[str]] = defaultdict(set)
"""Tensors and JSON files of each case that a test has looked at."""

_RENAMES = (
    (r"^blocks\.\d+\.(\d+)\.", r"blocks.\1."),
    (r"mlp\.w12\.", "mlp.fc1."),
    (r"mlp\.w3\.", "mlp.fc2."),
    (r"^register_tokens$", "reg_token"),
    (r"matryoshka_projections\.", "projections."),
)


class Case:
    """One case: `case["input/x"]` reads a tensor, `case.check(name, got)` compares with an expected one."""

    def __init__(self, about: dict[str, Any]) -> None:
        self.name: str = about["name"]
        self.parameters: dict[str, Any] = about.get("parameters") or {}
        self._tolerance = about.get("tolerance")
        results = [*about.get("expected", []), *about.get("alternative", [])]
        self._about: dict[str, dict[str, Any]] = {entry["tensor"]: entry for entry in results}
        self._tensors = load_file(VECTORS / about["file"], str(DEVICE)) if about.get("file") else {}
        self._json: dict[str, str] = {entry["file"]: entry.get("meaning", "") for entry in about.get("json", [])}

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def json(self) -> dict[str, Any]:
        name = next(iter(self._json))
        _compared[self.name].add(name)
        values: dict[str, Any] = json.loads((VECTORS / name).read_text())
        return values

    def results(self) -> set[str]:
        """All that a test must compare: expected and alternative tensors, and JSON files."""
        tensors = {name for name in self._tensors if name.startswith(("expected/", "alternative/"))}
        return tensors | self._about.keys() | self._json.keys()

    def meaning(self, name: str | None = None) -> str:
        """What the manifest says of `expected/name`, or of the JSON file."""
        if name is None:
            return next(iter(self._json.values()))
        return str(self._about[f"expected/{name}"].get("meaning", ""))

    def names(self, prefix: str) -> list[str]:
        """What follows `prefix` in the names of the tensors that start with it."""
        return [name.removeprefix(prefix) for name in self._tensors if name.startswith(prefix)]

    def levels(self, prefix: str) -> list[Tensor]:
        """Tensors `prefix.0`, `prefix.1`, …, narrowest level first."""
        return [self[f"{prefix}.{level}"] for level in range(len(self.names(f"{prefix}.")))]

    def weights(self, prefix: str = "weight/") -> dict[str, Tensor]:
        """Weights by our names."""
        return {self.rename(name): self[prefix + name] for name in self.names(prefix)}

    def rename(self, key: str) -> str:
        """Our name of an official parameter, within a backbone or a head."""
        for pattern, replacement in _RENAMES:
            key = re.sub(pattern, replacement, key)
        return key

    def check(self, name: str, got: Tensor) -> None:
        """Compare with `expected/name`, where its `compare_where` is true."""
        about = self._about[f"expected/{name}"]
        where = self[about["compare_where"]] if "compare_where" in about else None
        _compared[self.name].add(f"expected/{name}")
        self.compare(name, got, self[f"expected/{name}"], about.get("tolerance"), where)

    def compare(
        self,
        name: str,
        got: Tensor,
        expected: Tensor,
        tolerance: dict[str, float] | None = None,
        where: Tensor | None = None,
    ) -> None:
        """Fail where |got - expected| is more than atol + rtol |expected|; remember the worst share.

        Integers must be equal. `name` is the whole name of an alternative tensor, or anything for the table.
        """
        _compared[self.name].add(name)
        limits = tolerance or self._about.get(name, {}).get("tolerance") or self._tolerance
        assert limits is not None
        assert got.shape == expected.shape, (
            f"{self.name} {name}: shape {tuple(got.shape)}, not {tuple(expected.shape)}"
        )
        got, expected = got.detach().cpu(), expected.cpu()
        where = None if where is None else where.cpu()
        allowed = limits["atol"] + limits["rtol"] * expected.double().abs()
        shares = (got.double() - expected.double()).abs() / allowed
        if not expected.is_floating_point():
            shares = torch.where(got == expected, 0.0, torch.inf)
        shares = shares[where] if where is not None else shares
        worst = float(shares.nan_to_num(nan=torch.inf, posinf=torch.inf).max()) if shares.numel() else 0.0
        self.note(worst, name)
        assert worst <= 1, f"{self.name} {name}: {worst:.3g} times the tolerance {limits}"

    def note(self, share: float, name: str) -> None:
        """Remember an error, as a share of what is allowed, for the table."""
        _worst[self.name] = max(_worst.get(self.name, (-1.0, "")), (share, name))


@functools.cache
def _manifest() -> dict[str, dict[str, Any]]:
    return {case["name"]: case for case in json.loads((VECTORS / "manifest.json").read_text())["cases"]}


@pytest.fixture(autouse=True)
def computed_on_the_device() -> Iterator[None]:
    """Create tensors and modules on `DEVICE`, in full float32 precision."""
    torch.backends.cudnn.allow_tf32 = False
    with DEVICE:
        yield


@pytest.fixture
def uncompared(request: pytest.FixtureRequest) -> set[str]:
    """What the tests before have not looked at in the case that the parameter names."""
    name: str = request.param
    return Case(_manifest()[name]).results() - _compared[name]


@pytest.fixture
def case(request: pytest.FixtureRequest) -> Case:
    return Case(_manifest()[request.node.get_closest_marker("case").args[0]])


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", MARKER)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "uncompared" in metafunc.fixturenames:
        metafunc.parametrize("uncompared", list(_manifest()), indirect=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out tests of cases that are not there; look for what was not compared last, and only after all tests."""
    left_out = [
        item for item in items if (mark := item.get_closest_marker("case")) and mark.args[0] not in _manifest()
    ]
    last = [item for item in items if "uncompared" in getattr(item, "fixturenames", ())]
    if not _all_are_asked_for(config, items):
        left_out += last
    if left_out:
        config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out and item not in last]
    items += [item for item in last if item not in left_out]


def _all_are_asked_for(config: pytest.Config, items: list[pytest.Item]) -> bool:
    chosen = (
        any("::" in argument for argument in config.args)
        or config.option.keyword
        or getattr(config.option, "lf", False)
    )
    return not chosen and set(Path(__file__).parent.glob("test_*.py")) <= {item.path for item in items}


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if _worst:
        terminalreporter.section("official numbers: worst error as a share of its tolerance")
        for name, (share, tensor) in sorted(_worst.items()):
            terminalreporter.line(f"{name:24}{share:8.4f}  {tensor}")
