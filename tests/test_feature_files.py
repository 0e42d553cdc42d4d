"""Features in temporary files: nothing is left, a full disk is one line, and blocks give what the whole gives."""

import os
from pathlib import Path

import pytest
import torch

from franca import feature_files
from franca.errors import FrancaError
from franca.feature_files import blocks, map_blocks, mapped_zeros, take_rows

CPU = torch.device("cpu")


def test_the_file_has_no_name_and_is_gone_with_the_tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    before = set(os.listdir("/proc/self/fd"))
    x = mapped_zeros(1 << 18, 4)
    assert not x.any() and list(tmp_path.iterdir()) == []
    x[5] = 7
    assert x.sum() == 28
    maps = Path("/proc/self/maps")
    assert str(tmp_path) in maps.read_text()
    del x
    assert str(tmp_path) not in maps.read_text()
    assert set(os.listdir("/proc/self/fd")) == before


def test_without_tmpdir_files_are_in_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TMPDIR", raising=False)
    monkeypatch.chdir(tmp_path)
    x = mapped_zeros(3, 2)
    assert x.shape == (3, 2) and str(tmp_path) in Path("/proc/self/maps").read_text()


def test_a_full_disk_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with pytest.raises(FrancaError, match=r"cannot keep \d+\.0 GB of features there \(.*\); free disk space, or set"):
        mapped_zeros(1 << 30, 1 << 16)  # 256 TiB
    monkeypatch.setenv("TMPDIR", str(tmp_path / "missing"))
    with pytest.raises(FrancaError, match=r"missing: cannot keep 0\.0 GB of features there \(No such file"):
        mapped_zeros(2, 2)


def test_no_rows_need_no_file() -> None:
    assert mapped_zeros(0, 3).shape == (0, 3)
    assert [part.shape for part in blocks(torch.empty(0, 3), CPU)] == [(0, 3)]
    assert map_blocks(lambda x: x[:, :2], torch.empty(0, 3), CPU).shape == (0, 2)


def test_blocks_give_what_the_whole_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_files, "BLOCK", 7)
    x = torch.randn(23, 5, dtype=torch.float64)
    parts = list(blocks(x, CPU, 7))
    assert [len(part) for part in parts] == [7, 7, 7, 2]
    assert torch.equal(torch.cat(parts), x.float())
    assert torch.equal(map_blocks(lambda part: part[:, 1:3] * 2, x.float(), CPU), x.float()[:, 1:3] * 2)
    rows = torch.tensor([22, 0, 5, 5, 1, 2, 3, 4, 9])
    assert torch.equal(take_rows(x.float(), rows), x.float()[rows])
