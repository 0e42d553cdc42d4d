"""Start Prefect's process worker and wait for its flow runs as well: `python flows/worker.py OPTIONS`.

Flow runs outlive the worker for a moment, to save and to go back to the queue (flows/attempt.sh). As the first process
of a container this script must not exit before them: the kernel kills all processes of a container with its first one.
"""

import ctypes
import os
import signal
import subprocess
import sys

_PR_SET_CHILD_SUBREAPER = 36  # <linux/prctl.h>: orphaned descendants become children of this process

if __name__ == "__main__":
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    signal.signal(signal.SIGINT, lambda *_: None)  # Ctrl-C reaches the worker as well, which handles it
    worker = subprocess.Popen(["prefect", "worker", "start", "--pool", "cpu", *sys.argv[1:]])
    signal.signal(signal.SIGTERM, lambda *_: os.kill(worker.pid, signal.SIGTERM))
    code = 0
    try:
        # Ends with ChildProcessError once neither the worker nor an adopted flow run is left.
        while True:
            pid, status = os.wait()
            if pid == worker.pid:
                code = os.waitstatus_to_exitcode(status)
    except ChildProcessError:
        sys.exit(code)
