"""Processes that start at once, because they are forked from one that has imported torch and Franca."""

import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable, Iterable
from multiprocessing.process import BaseProcess
from pathlib import Path

FORKSERVER = multiprocessing.get_context("forkserver")
"""For processes that train together: those that start them may have threads, and torch settings of other tests."""
FORKSERVER.set_forkserver_preload(
    [
        "pytest",
        "franca.cli",
        "franca.stages.pretrain",
        "franca.tracking.mirror",
    ]
)


def start(action: Callable[..., object], *arguments: object, errors: Path | None = None) -> BaseProcess:
    """Call a function in a copy of this process; its exit code is what the function returns, as with `sys.exit`.

    Args:
        action: the function.
        arguments: its arguments.
        errors: a file for what the process writes to stderr.
    """
    process = multiprocessing.get_context("fork").Process(target=_call, args=(errors, action, arguments))
    process.start()
    return process


def _call(errors: Path | None, action: Callable[..., object], arguments: tuple[object, ...]) -> None:
    if errors:
        sys.stderr = errors.open("w")  # not pytest's
        os.dup2(sys.stderr.fileno(), 2)
    sys.exit(action(*arguments))  # type: ignore[arg-type]


def succeeds_without(packages: Iterable[str], action: Callable[[], object]) -> bool:
    """Return whether a function succeeds where packages cannot be imported; it runs in a copy of this process.

    The copy forgets the modules of this repository as well, so that importing them runs their imports again.
    """
    child = os.fork()
    if not child:
        code = 1
        try:
            for name in [
                name for name in sys.modules if name.partition(".")[0] in {*packages, "benchmarks", "franca"}
            ]:
                del sys.modules[name]
            sys.modules.update(dict.fromkeys(packages))  # type: ignore[arg-type]
            action()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
