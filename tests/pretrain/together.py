"""Functions that several processes run to save and load checkpoints without training; see `in_processes`."""

import errno
import gc
import json
import os
import traceback
from collections.abc import Callable
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor

from franca.errors import FrancaError
from franca.params import parse_params
from franca.pretrain.checkpoint import Checkpoints, load_newest, loader, writer
from franca.pretrain.parallel import Ranks, distribute
from franca.pretrain.setup import make_networks
from tests.forked import FORKSERVER

TIMEOUT_SECONDS = 60
CPU = torch.device("cpu")


def in_processes(count: int, folder: Path, action: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Run `action(ranks, folder, *arguments)` in `count` processes; returns what each returns, by rank."""
    answers = folder / f"answers-{action.__name__}-{len(list(folder.glob('answers-*')))}"
    answers.mkdir(parents=True)
    processes = [
        FORKSERVER.Process(target=_one, args=(rank, count, folder, answers, action, arguments))
        for rank in range(count)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(TIMEOUT_SECONDS)
        hung = process.is_alive()
        process.kill()
        assert not hung, "hangs"
    return [json.loads((answers / str(rank)).read_text()) for rank in range(count)]


def _one(
    rank: int, count: int, folder: Path, answers: Path, action: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    gc.freeze()  # so that the garbage collector does not look at all that was imported
    store = dist.FileStore(str(answers / "store"), count)
    dist.init_process_group(
        "gloo", store=store, rank=rank, world_size=count, timeout=timedelta(seconds=TIMEOUT_SECONDS)
    )
    control, writer = (dist.new_group(backend="gloo") for _ in range(2))
    try:
        answer = action(Ranks(rank, count, control, writer), folder, *arguments)
    except FrancaError as error:
        answer = str(error)
    except BaseException:
        answer = traceback.format_exc()
    (answers / str(rank)).write_text(json.dumps(answer))
    os._exit(0)


def state() -> dict[str, dict[str, Tensor]]:
    """What DDP's processes all have: tensors of several sizes, empty dicts, scalars."""
    sizes = {"large": 1000, "small": 10, "middle": 400}
    return {
        "student": {name: torch.arange(float(size)) for name, size in sizes.items()},
        "teacher": {name: -torch.arange(float(size)) for name, size in sizes.items()},
        "optimizer": {"step": torch.tensor(7.0)},
        "centers": {},
    }


def zeros() -> dict[str, dict[str, Tensor]]:
    return {part: {name: torch.zeros_like(value) for name, value in own.items()} for part, own in state().items()}


def fail_in(rank: int, ranks: Ranks, owner: Any, name: str, only: str = "") -> None:
    """Have a function raise an I/O error in one process, where `only` is in its path or first argument."""
    function = getattr(owner, name)

    def fail(first: Any, *arguments: Any, **more: Any) -> Any:
        if only in str(getattr(first, "path", first)):
            raise OSError(errno.EIO, "Input/output error")
        return function(first, *arguments, **more)

    if ranks.rank == rank:
        setattr(owner, name, fail)


def save(ranks: Ranks, folder: Path, steps: list[int]) -> int:
    """Save; returns the bytes that this process copied in all."""
    copied = 0
    share = writer._select_own

    def count(tensors: dict[str, Any], ranks: Ranks) -> Any:
        nonlocal copied
        shared = share(tensors, ranks)
        copied += sum(value.nbytes for part in shared.values() for value in part.values())
        return shared

    writer._select_own = count
    checkpoints = Checkpoints(folder / "checkpoints", len(steps), None, ranks, CPU)
    for step in steps:
        checkpoints.save(step, state(), {"rank": ranks.rank})
    checkpoints.wait()
    return copied


def save_with_fault(ranks: Ranks, folder: Path, rank: int, where: str) -> int:
    match where:
        case "folder":
            fail_in(rank, ranks, Checkpoints, "_make_folder")
        case "tensors":
            fail_in(rank, ranks, dcp.FileSystemWriter, "write_data")
        case "hashing":
            fail_in(rank, ranks, writer, "sha256_file")
        case "end":
            fail_in(rank, ranks, writer, "write_json")
    return save(ranks, folder, [9])


def load(ranks: Ranks, folder: Path) -> Any:
    """Load; returns the step, the rest, whether the tensors are right, the warnings and the files hashed."""
    hashed = list[str]()
    digest = loader.sha256_file

    def count(path: Path) -> str:
        hashed.append(f"{path.parent.name}/{path.name}")
        return digest(path)

    loader.sha256_file = count
    got, warnings = zeros(), list[str]()
    found = load_newest(folder / "checkpoints", got, ranks, warnings.append)
    right = all(torch.equal(got[part][name], value) for part, own in state().items() for name, value in own.items())
    return found and [found[0], found[1], right, warnings, hashed]


def load_with_fault(ranks: Ranks, folder: Path, rank: int, where: str, only: str) -> Any:
    match where:
        case "digests":
            fail_in(rank, ranks, loader, "read_json", only)
        case "hashing":
            fail_in(rank, ranks, loader, "sha256_file", only)
        case "rest":
            fail_in(rank, ranks, loader, "_load_rest", only)
        case "metadata":
            fail_in(rank, ranks, dcp.FileSystemReader, "read_metadata", only)
        case "tensors":
            fail_in(rank, ranks, dcp.FileSystemReader, "read_data", only)
        case "list":
            fail_in(rank, ranks, loader, "checkpoint_folders", only)
    return load(ranks, folder)


def gradients(ranks: Ranks, folder: Path, values: dict[str, Any]) -> list[str]:
    """Return digests of the student's gradients, averaged over processes, of the same three backward passes."""
    params = parse_params(values, "tiny")
    student, teacher = make_networks(params, CPU)
    run_student = distribute(student, teacher, "ddp", "fp32", ranks, CPU)
    torch.manual_seed(ranks.rank)
    crops = torch.randn(4, 3, 32, 32)
    masks = torch.zeros(4, 16, dtype=torch.bool)
    masks[:, :5] = True
    digests = []
    for _ in range(3):
        seen = run_student(crops, masks.flatten().nonzero()[:, 0], masks, torch.zeros(4, 3, 16, 16))
        torch.stack([tensor.square().mean() for level in seen.dino + seen.ibot for tensor in level]).sum().backward()
        digest = sha256()
        for parameter in student.parameters():
            assert parameter.grad is not None
            digest.update(parameter.grad.numpy().tobytes())
        digests.append(digest.hexdigest())
        student.zero_grad(set_to_none=True)
    return digests
