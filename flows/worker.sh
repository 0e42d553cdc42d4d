#!/usr/bin/env bash
# Deploy the flows to the Prefect server at PREFECT_API_URL and run what it schedules; options are passed to the worker.
set -euo pipefail
prefect work-pool inspect cpu > /dev/null 2>&1 || prefect work-pool create cpu --type process
python -m flows.deploy
exec python flows/worker.py "$@"
