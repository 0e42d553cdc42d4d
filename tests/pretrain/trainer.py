"""What a forked process runs to be `franca pretrain`; `settings` are put into its globals by `conftest.py`."""

import gc
import multiprocessing
import os
import resource
import sys
from pathlib import Path
from typing import Any

from franca import cli
from franca.tracking import mirror

settings: dict[str, Any] = globals()["settings"]

gc.freeze()  # so that the garbage collector does not look at all that was imported
os.setsid()
os.chdir(settings["project"])
os.environ |= {"DVC_ROOT": str(settings["project"]), **settings["environment"]}
for number, name in ((1, "out"), (2, "err")):
    os.dup2(os.open(f"{settings['log']}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
if settings["largest_file"] is not None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (settings["largest_file"],) * 2)
mirror.start = lambda folder, params: None
multiprocessing.set_start_method("fork", force=True)  # as in a process of its own: this one inherited "forkserver"

if settings["between"] and (child := os.fork()):
    Path(f"{settings['log']}.pid").write_text(str(child))
    os.waitpid(child, 0)
sys.exit(cli.main(["pretrain"]))
