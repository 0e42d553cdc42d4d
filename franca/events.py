"""Events for Prefect's automations, sent to its server's API if one is set.

Prefect itself is not needed, and takes seconds to import.
"""

import re
import uuid
from datetime import UTC, datetime
from typing import Any

from franca.prefect_api import api_address, api_headers, prefect_settings
from franca.web import NoAnswer, ask

MODEL = "franca.model"
"""Begins the ID of the resource of each event: `franca.model.NAME`."""
CHAMPION_MOVED = "franca.champion.moved"
DATA_CHANGED = "franca.data.changed"
DRIFT_FOUND = "franca.drift.found"


def send_event(event: str, model: str, text: str, payload: dict[str, Any], flow_run: str | None = None) -> str | None:
    """Send an event to the Prefect server that is set; return why that failed, None if it did not or none is set.

    An event is a message about what has happened already, so a server that is down stops nothing.

    Args:
        event: What happened.
        model: Name of the registered model that it is about.
        text: What happened, in a sentence.
        payload: The facts.
        flow_run: Name and ID of the flow run that did it, as `FRANCA_FLOW_RUN` has them.
    """
    settings = prefect_settings()
    address = api_address(settings)
    if not address:
        return None
    found = re.search(r"\(([0-9a-f-]{36})\)$", flow_run or "")
    runs = [found[1]] if found else []
    content = {
        "id": str(uuid.uuid4()),
        "occurred": datetime.now(UTC).isoformat(),
        "event": event,
        "resource": {"prefect.resource.id": f"{MODEL}.{model}", "prefect.resource.name": model},
        "related": [
            {"prefect.resource.id": f"prefect.flow-run.{run}", "prefect.resource.role": "flow-run"} for run in runs
        ],
        "payload": {"text": text, **payload},
    }
    try:
        status = ask(f"{address}/events", api_headers(settings), [content]).status
    except NoAnswer as reason:
        return str(reason)
    return None if status < 300 else f"status {status}"
