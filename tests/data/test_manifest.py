"""A data set that is nearly black or nearly white is reported."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchmarks.decoding.writers import png
from franca.data.ingest.manifest import describe_exposure
from franca.data.ingest.prepare import prepare
from franca.params import Prepare


@pytest.mark.parametrize(
    ("mean", "std", "found"),
    [
        (0.02, 0.02, "nearly black (mean 2.0% of full brightness)"),
        (0.0, 0.0, "nearly black"),
        (0.97, 0.02, "nearly white (mean 97.0% of full brightness)"),
        (1.0, 0.0, "nearly white"),
        (0.13, 0.31, None),
        (0.02, 0.14, None),
        (0.95, 0.2, None),
        (0.4, 0.2, None),
    ],
)
def test_exposure(mean: float, std: float, found: str | None) -> None:
    text = describe_exposure({"mean": [mean] * 3, "std": [std] * 3})
    assert found in text if found and text else text is found


def test_one_bright_channel_is_enough() -> None:
    assert describe_exposure({"mean": [0.01, 0.01, 0.4], "std": [0.01, 0.01, 0.1]}) is None


def test_prepare_warns_once_of_samples_that_use_little_of_their_range(
    tmp_path: Path, make_params: Callable[..., Prepare], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(20):
        (folder / f"{i}.png").write_bytes(png(rng.integers(0, 4096, (16, 16, 1)).astype(np.uint16), 16, 0))
    prepare(make_params(folder), tmp_path / "prepared")
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if "nearly" in line] == [line for line in lines if f"{folder}: the train" in line]
    assert sum("nearly black" in line for line in lines) == 1
