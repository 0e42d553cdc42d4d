#!/usr/bin/env bash
# Started by the worker for each flow run. Runs `prefect flow-run execute` by execute.py, which on SIGTERM puts the run back
# into the queue. When the worker stops it kills this script by SIGKILL; supervise.py then sends SIGTERM to the command. To cancel
# a run the worker sends SIGTERM, which is ignored here: the command learns of the cancellation from the server.
set -o pipefail
trap : TERM INT
# With -p, tee keeps reading after the worker has closed the pipe; the command would otherwise die of SIGPIPE.
setsid python "${0%/*}/supervise.py" $$ python -P "${0%/*}/execute.py" flow-run execute 2>&1 | (trap "" TERM INT; exec tee -p /dev/null)
