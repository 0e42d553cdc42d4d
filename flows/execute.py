"""`prefect`, whose `flow-run execute` can still be cancelled after an outage of Prefect's server.

If its events stream is closed, Prefect asks the server every 10 s whether the run is to be cancelled. After three
failures in a row it stops, and nobody can cancel the run any more. This command asks for as long as a run can last.
"""

import functools

from prefect._internal import _observation_delivery
from prefect.cli import app
from prefect.utilities.services import critical_service_loop

FAILURES = 100_000
"""Number of failures in a row after which it stops asking: more than ten days."""

if __name__ == "__main__":
    patient = functools.partial(critical_service_loop, consecutive=FAILURES)
    _observation_delivery.critical_service_loop = patient
    app()
