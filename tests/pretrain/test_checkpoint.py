import errno
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor

from franca.errors import FrancaError
from franca.pretrain.checkpoint import Checkpoints, load_newest
from franca.pretrain.checkpoint.agreement import FULL_DISK, reason_of
from franca.pretrain.parallel import Ranks

ALONE, CPU = Ranks(), torch.device("cpu")


def save(folder: Path, step: int, keep: int = 1, milestone_steps: int | None = None) -> None:
    checkpoints = Checkpoints(folder, keep, milestone_steps, ALONE, CPU)
    checkpoints.save(step, {"weights": torch.full((3,), float(step))}, {"readings": [step]})
    checkpoints.wait()


def load(folder: Path) -> tuple[int, list[float], dict[str, Any], list[str]] | None:
    state, warnings = {"weights": torch.zeros(3)}, list[str]()
    found = load_newest(folder, state, ALONE, warnings.append)
    return found and (found[0], state["weights"].tolist(), found[1], warnings)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_newest_checkpoint_is_loaded(tmp_path: Path) -> None:
    assert load(tmp_path) is None
    save(tmp_path, 1)
    save(tmp_path, 2)
    assert names(tmp_path) == ["step-00000002"]
    assert load(tmp_path) == (2, [2.0] * 3, {"readings": [2]}, [])


def test_milestones_are_kept(tmp_path: Path) -> None:
    for step in range(1, 6):
        save(tmp_path, step, keep=2, milestone_steps=2)
    assert names(tmp_path) == ["milestone-00000002", "milestone-00000004", "step-00000003", "step-00000005"]
    assert load(tmp_path)[0] == 5  # type: ignore[index]


def test_training_continues_while_a_checkpoint_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = torch.ones(3)
    checkpoints = Checkpoints(tmp_path, 1, None, ALONE, CPU)
    checkpoints.save(1, {"weights": weights}, {})
    weights.zero_()
    checkpoints.wait()
    assert load(tmp_path)[1] == [1.0] * 3  # type: ignore[index]


@pytest.mark.parametrize("name", ["__0_0.distcp", ".metadata", "rest.pt", "digests.json"])
@pytest.mark.parametrize("fault", ["cut", "changed", "gone"])
def test_an_older_checkpoint_is_used_if_the_newest_is_damaged(tmp_path: Path, name: str, fault: str) -> None:
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


def zip_error(number: int, text: str) -> NoReturn:
    """Fail as torch's zip writer does if a write fails."""
    try:
        raise OSError(number, text)
    except OSError:
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598")  # noqa: B904


@pytest.mark.parametrize(
    ("number", "text", "message"),
    [
        (errno.ENOSPC, "No space left on device", None),
        (errno.EDQUOT, "Quota exceeded", None),
        (errno.EIO, "Input/output error", "[Errno 5] Input/output error"),
        (None, "CUDA error:\nillegal memory access", "RuntimeError: CUDA error: illegal memory access"),
    ],
    ids=["full", "quota", "I/O", "other"],
)
@pytest.mark.parametrize("where", [Tensor, dict], ids=["tensors", "rest"])
def test_a_failed_write_keeps_older_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: type, number: int | None, text: str, message: str | None
) -> None:
    save(tmp_path, 1)
    torch_save = torch.save

    def fail(value: object, *arguments: Any, **more: Any) -> None:
        if isinstance(value, where):
            if number is None:
                raise RuntimeError(text)
            zip_error(number, text)
        torch_save(value, *arguments, **more)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", fail)
        with pytest.raises(FrancaError) as caught:
            save(tmp_path, 2)
    if message:
        end = f", {message}; older checkpoints are kept: run again to resume from the newest"
    else:
        end = ", no space left on the device; older checkpoints are kept: free space and run again"
    assert str(caught.value) == f"{tmp_path}: checkpoint not written{end}"
    assert load(tmp_path)[0] == 1  # type: ignore[index]
    assert names(tmp_path) == [".step-00000002.tmp", "step-00000001"]
    save(tmp_path, 3)  # removes the incomplete one
    assert names(tmp_path) == ["step-00000003"]


@pytest.mark.parametrize(("tensors", "rest"), [(1000, 1), (1, 1000)])
def test_a_file_size_limit_is_reported_as_such(tmp_path: Path, tensors: int, rest: int) -> None:
    checkpoints = Checkpoints(tmp_path, 1, None, ALONE, CPU)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, limits[1]))
    try:
        checkpoints.save(1, {"weights": torch.zeros(tensors)}, {"meter": torch.zeros(rest)})
        with pytest.raises(FrancaError, match=r"not written, a file exceeds the size limit .*: raise the limit"):
            checkpoints.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_an_unrelated_error_is_not_the_reason() -> None:
    def fail(kind: type[Exception], text: str) -> Exception:
        try:
            try:
                raise FileNotFoundError(errno.ENOENT, "No such file or directory", "cache")
            except FileNotFoundError:
                raise kind(text)  # noqa: B904
        except kind as error:
            return error

    assert reason_of(fail(RuntimeError, "CUDA error")) == "RuntimeError: CUDA error"
    assert reason_of(fail(ValueError, "inline_container.cc")) == "ValueError: inline_container.cc"
    assert reason_of(fail(OSError, "Input/output error")) == "Input/output error"
    cause = OSError(errno.ENOSPC, "No space left on device")
    error = RuntimeError("cannot write")
    error.__cause__ = cause
    assert reason_of(error) == FULL_DISK


@pytest.mark.parametrize("reader", ["read_metadata", "read_data"])
def test_an_unreadable_checkpoint_is_skipped_but_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reader: str
) -> None:
    save(tmp_path, 1, keep=2)
    save(tmp_path, 2, keep=2)
    read = getattr(dcp.FileSystemReader, reader)
    failing = {"step-00000002"}

    def fail(self: dcp.FileSystemReader, *arguments: Any, **more: Any) -> Any:
        if Path(self.path).name in failing:
            raise OSError(errno.EIO, "Input/output error")
        return read(self, *arguments, **more)

    monkeypatch.setattr(dcp.FileSystemReader, reader, fail)
    found = load(tmp_path)
    assert found is not None and found[:2] == (1, [1.0] * 3)
    assert len(found[3]) == 1 and found[3][0].startswith("step-00000002 is unreadable (")

    failing.add("step-00000001")
    with pytest.raises(FrancaError, match=r"no checkpoint can be loaded \(.*Input/output error.*\); run again once"):
        load(tmp_path)


def test_the_writing_thread_uses_the_gpu_of_its_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    devices = list[tuple[torch.device, bool]]()

    @contextmanager
    def use(device: torch.device) -> Iterator[None]:
        devices.append((device, threading.current_thread() is threading.main_thread()))
        yield

    monkeypatch.setattr(torch.cuda, "device", use)
    checkpoints = Checkpoints(tmp_path, 1, None, ALONE, torch.device("cuda", 3))
    checkpoints.save(1, {"weights": torch.ones(3)}, {})
    checkpoints.wait()
    assert devices == [(torch.device("cuda", 3), False)]
