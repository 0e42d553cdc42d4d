"""Run a command that receives SIGTERM when its parent dies (Linux): `python supervise.py PARENT_PID COMMAND...`.

A flow that is killed by SIGKILL cannot end its DVC command itself. DVC's stages follow DVC in the same way
(`franca.process.terminate_with_parent`).

This script repeats the few lines of that function and imports the standard library only. It is started by its path
before each command, in folders and by interpreters where `franca` may be missing or of another checkout.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>; the setting survives execvp

if __name__ == "__main__":
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    # The parent may have died before prctl was called.
    if os.getppid() != int(sys.argv[1]):
        sys.exit("the flow ended before its command began")
    os.execvp(sys.argv[2], sys.argv[2:])
