#!/usr/bin/env bash
# What the worker starts for a flow run: `prefect flow-run execute`, which by SIGTERM puts the run back into the queue.
# Between the two stands this script. The worker kills it (-9) when it stops, and supervise.py turns that into SIGTERM. To
# cancel a run the worker sends SIGTERM, which stays here: what is below knows of it from the server.
set -o pipefail
trap : TERM INT
# tee goes on reading when the worker no longer does.
setsid python "${0%/*}/supervise.py" $$ prefect flow-run execute 2>&1 | (trap "" TERM INT; exec tee -p /dev/null)
