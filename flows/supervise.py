"""`python supervise.py PARENT COMMAND...` becomes COMMAND, which gets SIGTERM once PARENT is dead (Linux).

So not even a flow killed by SIGKILL leaves DVC behind; the stage then hears of DVC's death in the same way.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1

if __name__ == "__main__":
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(sys.argv[1]):
        sys.exit("the flow ended before its command began")
    os.execvp(sys.argv[2], sys.argv[2:])
