"""Processes that start at once, because they are forked from one that has imported torch and Franca."""

import gc
import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable, Iterable
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
    gc.freeze()  # so that the garbage collector does not look at all that was imported
    multiprocessing.set_start_method("fork", force=True)  # the default of Linux, which this process did not inherit
    if errors:
        os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666), 2)
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
