"""`python flows/worker.py OPTIONS` is Prefect's process worker, which does not end before its runs have.

Runs outlive the worker and go back to the queue (flows/attempt.sh). Where this is a container's first process, its end
would be theirs.
"""

import ctypes
import os
import signal
import subprocess
import sys

_PR_SET_CHILD_SUBREAPER = 36

if __name__ == "__main__":
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    signal.signal(signal.SIGINT, lambda *_: None)  # Ctrl-C reaches the worker itself
    worker = subprocess.Popen(["prefect", "worker", "start", "--pool", "cpu", *sys.argv[1:]])
    signal.signal(signal.SIGTERM, lambda *_: os.kill(worker.pid, signal.SIGTERM))
    code = 0
    try:
        while True:
            pid, status = os.wait()
            if pid == worker.pid:
                code = os.waitstatus_to_exitcode(status)
    except ChildProcessError:
        sys.exit(code)
