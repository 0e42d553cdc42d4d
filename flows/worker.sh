#!/usr/bin/env bash
# Deploys the flows to the Prefect server at PREFECT_API_URL and runs what it schedules; options go to the worker.
set -euo pipefail
prefect work-pool inspect cpu > /dev/null 2>&1 || prefect work-pool create cpu --type process
prefect --no-prompt deploy --all
exec python flows/worker.py "$@"
