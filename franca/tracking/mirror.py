"""Upload the metrics of a running training to MLflow from a second process, so that training never waits for a server.

    python -m franca.tracking.mirror runs/pretrain-<fingerprint> --experiment NAME

It ends with the trainer, or once everything is sent after the trainer has written `finished` into the folder.
"""

import argparse
import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path

from franca.errors import FrancaError
from franca.files import write_bytes
from franca.params import Params, load_params
from franca.params.render import to_yaml
from franca.paths import PARAMS
from franca.process import StopRequest, listen_for_stop, terminate_with_parent
from franca.tracking.client import connect, server_errors
from franca.tracking.curves import CurveUploader, open_uploader
from franca.tracking.log_run import log_start
from franca.tracking.runs import STATE

FINISHED = "finished"
POLL_SECONDS = 2.0
MAX_WAIT_SECONDS = 60.0
"""Longest wait between attempts if the server is down; each failure doubles the wait."""
REQUEST_SECONDS = "5"
"""Timeout of a request. MLflow's default of 120 s would keep this process alive long after the trainer has ended."""


def start(folder: Path, params: Params) -> "subprocess.Popen[bytes] | None":
    """Start the mirror of a run folder as a child of this process; return None if MLflow is not installed.

    Its output goes to `mirror.log` in the folder, and the parameters to `params.yaml`.
    """
    write_bytes(folder / PARAMS.name, to_yaml(params, "The parameters of this pretraining.").encode())
    if importlib.util.find_spec("mlflow") is None:
        return None
    command = [sys.executable, "-m", "franca.tracking.mirror", str(folder)]
    command += [f"--experiment={params.register_.experiment}", "--parent", str(os.getpid())]
    with (folder / "mirror.log").open("wb") as log:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)


def follow(folder: Path, experiment: str, stop: StopRequest, parent: int) -> None:
    """Send new lines until the training ends; if the server fails, try again with growing waits.

    Args:
        folder: The run folder.
        experiment: Name of the MLflow experiment.
        stop: Set by SIGTERM.
        parent: Process ID of the trainer; another parent means that it has died.
    """
    uploader: CurveUploader | None = None
    wait, explained = POLL_SECONDS, False
    while True:
        orphaned = bool(stop) or os.getppid() != parent
        finished = (folder / FINISHED).is_file()
        try:
            with server_errors():
                if uploader is None:
                    client = connect()
                    uploader = open_uploader(client, folder, experiment)
                    client.update_run(uploader.run_id, status="RUNNING")
                    client.set_tag(uploader.run_id, STATE, "training")
                if not explained:
                    log_start(client, uploader.run_id, folder, load_params(folder / PARAMS.name))
                    explained = True
                uploader.send()
                if finished or orphaned:
                    state = "trained" if finished else f"stopped at step {max(uploader.step, 0)}"
                    client.set_tag(uploader.run_id, STATE, state)
                    client.set_terminated(uploader.run_id, "FINISHED" if finished else "KILLED")
                    return
            wait = POLL_SECONDS
        except FrancaError as error:
            print(time.strftime("%H:%M:%S"), error, flush=True)
            uploader = None
            wait = min(2 * wait, MAX_WAIT_SECONDS)
            if orphaned:
                return
        wake = time.monotonic() + wait
        # Short sleeps, so that a stop or the end of the training is noticed at once.
        while time.monotonic() < wake and not stop and (finished or not (folder / FINISHED).is_file()):
            time.sleep(0.2)


def main() -> None:
    """Run the command line of this module."""
    parser = argparse.ArgumentParser(prog="python -m franca.tracking.mirror", description=__doc__)
    parser.add_argument("folder", type=Path, help="run folder of a pretraining")
    parser.add_argument("--experiment", required=True, help="MLflow experiment of the run")
    parser.add_argument("--parent", type=int, default=os.getppid(), help="process to end with")
    arguments = parser.parse_args()
    stop = listen_for_stop()
    terminate_with_parent()
    os.nice(10)  # training comes first
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", REQUEST_SECONDS)
    follow(arguments.folder, arguments.experiment, stop, arguments.parent)


if __name__ == "__main__":
    main()
