import errno
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp

from franca.errors import FrancaError
from franca.pretrain.checkpoint import Checkpoints, load_newest
from franca.pretrain.parallel import Ranks

ALONE = Ranks()


def save(folder: Path, step: int, keep: int = 1, milestone_steps: int | None = None) -> None:
    checkpoints = Checkpoints(folder, keep, milestone_steps, ALONE)
    checkpoints.save(step, {"weights": torch.full((3,), float(step))}, {"readings": [step]})
    checkpoints.wait()


def load(folder: Path) -> tuple[int, list[float], dict[str, Any], list[str]] | None:
    state, warnings = {"weights": torch.zeros(3)}, list[str]()
    found = load_newest(folder, state, ALONE, warnings.append)
    return found and (found[0], state["weights"].tolist(), found[1], warnings)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_newest_comes_back(tmp_path: Path) -> None:
    assert load(tmp_path) is None
    save(tmp_path, 1)
    save(tmp_path, 2)
    assert names(tmp_path) == ["step-00000002"]
    assert load(tmp_path) == (2, [2.0] * 3, {"readings": [2]}, [])


def test_milestones_stay(tmp_path: Path) -> None:
    for step in range(1, 6):
        save(tmp_path, step, keep=2, milestone_steps=2)
    assert names(tmp_path) == ["milestone-00000002", "milestone-00000004", "step-00000003", "step-00000005"]
    assert load(tmp_path)[0] == 5  # type: ignore[index]


def test_training_goes_on_while_its_copy_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = torch.ones(3)
    checkpoints = Checkpoints(tmp_path, 1, None, ALONE)
    checkpoints.save(1, {"weights": weights}, {})
    weights.zero_()
    checkpoints.wait()
    assert load(tmp_path)[1] == [1.0] * 3  # type: ignore[index]


@pytest.mark.parametrize("name", ["__0_0.distcp", ".metadata", "rest.pt", "digests.json"])
@pytest.mark.parametrize("fault", ["cut", "changed", "gone"])
def test_an_older_one_is_used_where_the_newest_is_damaged(tmp_path: Path, name: str, fault: str) -> None:
    save(tmp_path, 1, keep=2)
    save(tmp_path, 2, keep=2)
    path = tmp_path / "step-00000002" / name
    content = path.read_bytes()
    match fault:
        case "cut":
            path.write_bytes(content[: len(content) // 2])
        case "changed":
            path.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
        case "gone":
            path.unlink()
    found = load(tmp_path)
    assert found is not None and found[:2] == (1, [1.0] * 3)
    assert len(found[3]) == 1 and found[3][0].startswith("step-00000002 is damaged (")


def test_one_that_cannot_be_written_leaves_the_old_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 1)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(dcp, "save", full)
        with pytest.raises(FrancaError, match="checkpoint not written, no space left on the device; older"):
            save(tmp_path, 2)
    assert load(tmp_path)[0] == 1  # type: ignore[index]
    assert names(tmp_path) == [".step-00000002.tmp", "step-00000001"]
    save(tmp_path, 3)  # clears away what was torn
    assert names(tmp_path) == ["step-00000003"]
