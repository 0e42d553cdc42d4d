"""Processes that start at once: they are forked from one that has imported torch and Franca and does nothing else."""

import multiprocessing
import os
import sys
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

FORKSERVER = multiprocessing.get_context("forkserver")
FORKSERVER.set_forkserver_preload(
    [
        "pytest",
        "franca.cli",
        "franca.formats.import_weights",
        "franca.formats.timm",
        "franca.inference.embed",
        "franca.stages.pretrain",
        "franca.tracking.mirror",
    ]
)


def start(action: Callable[..., object], *arguments: object, errors: Path | None = None) -> BaseProcess:
    """Call a function of a module in a new process, in the current folder.

    Its exit code is what the function returns, as with `sys.exit`. Environment variables are those of the server, set
    when the first process was started.

    Args:
        action: a function at the top level of its module, which is imported again.
        errors: a file for what the process writes to stderr.
    """
    process = FORKSERVER.Process(target=_call, args=(errors, action, arguments))
    process.start()
    return process


def _call(errors: Path | None, action: Callable[..., object], arguments: tuple[object, ...]) -> None:
    multiprocessing.set_start_method("fork", force=True)  # the default of Linux, which this process did not inherit
    if errors:
        os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666), 2)
    sys.exit(action(*arguments))  # type: ignore[arg-type]
