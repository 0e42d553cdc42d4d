"""Entry point of the installed `franca` command, which runs the code of the checkout that it is called in."""

import os
import sys
from pathlib import Path


def main() -> int:
    """Run the command line of `./franca` if the current folder is a checkout, else that of the installed package.

    A git worktree and the folder of `dvc exp run --temp` have their own copy of the code, and DVC's stages run it as
    `python -m franca`. This command must run the same code as the stages.
    """
    here = Path.cwd() / "franca"
    if (here / "cli.py").is_file() and not here.samefile(Path(__file__).parent):
        # -m puts the current folder first on sys.path. A new process is needed: `franca` is already imported.
        os.execv(sys.executable, [sys.executable, "-m", "franca", *sys.argv[1:]])
    from franca.cli import main as command_line

    return command_line()
