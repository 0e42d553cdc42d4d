"""A process beside the trainer that sends its curves to MLflow, so that the loop never waits for a server.

    python -m franca.tracking.mirror runs/pretrain-<fingerprint> --experiment NAME

It ends when the trainer does, or once all is sent after the trainer wrote `finished` into the folder.
"""

import argparse
import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path

from franca.errors import FrancaError
from franca.process import StopRequest, follow_parent, listen_for_stop
from franca.tracking.client import connect, server_faults
from franca.tracking.curves import Curves, attach

FINISHED = "finished"
POLL_SECONDS = 2.0
LONGEST_WAIT_SECONDS = 60.0
REQUEST_SECONDS = "5"


def start(folder: Path, experiment: str) -> "subprocess.Popen[bytes] | None":
    """Start the mirror of a run folder as a child of this process; return None if MLflow is not installed.

    What it has to say goes to `mirror.log` in the folder.
    """
    if importlib.util.find_spec("mlflow") is None:
        return None
    command = [sys.executable, "-m", "franca.tracking.mirror", str(folder)]
    command += [f"--experiment={experiment}", "--parent", str(os.getpid())]
    with (folder / "mirror.log").open("wb") as log:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)


def follow(folder: Path, experiment: str, stop: StopRequest, parent: int) -> None:
    """Send what comes until the training ends, whatever becomes of the server meanwhile."""
    curves: Curves | None = None
    wait = POLL_SECONDS
    while True:
        orphaned = bool(stop) or os.getppid() != parent
        finished = (folder / FINISHED).is_file()
        try:
            with server_faults():
                if curves is None:
                    client = connect()
                    curves = attach(client, folder, experiment)
                    client.update_run(curves.run_id, status="RUNNING")
                curves.send()
                if finished or orphaned:
                    client.set_terminated(curves.run_id, "FINISHED" if finished else "KILLED")
                    return
            wait = POLL_SECONDS
        except FrancaError as error:
            print(time.strftime("%H:%M:%S"), error, flush=True)
            curves = None
            wait = min(2 * wait, LONGEST_WAIT_SECONDS)
            if orphaned:
                return
        awake = time.monotonic() + wait
        while time.monotonic() < awake and not stop and (finished or not (folder / FINISHED).is_file()):
            time.sleep(0.2)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m franca.tracking.mirror", description=__doc__)
    parser.add_argument("folder", type=Path, help="run folder of a pretraining")
    parser.add_argument("--experiment", required=True, help="MLflow experiment of the run")
    parser.add_argument("--parent", type=int, default=os.getppid(), help="process to end with")
    arguments = parser.parse_args()
    stop = listen_for_stop()
    follow_parent()
    os.nice(10)
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", REQUEST_SECONDS)
    follow(arguments.folder, arguments.experiment, stop, arguments.parent)


if __name__ == "__main__":
    main()
