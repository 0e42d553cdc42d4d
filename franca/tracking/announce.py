"""Tell the Prefect server that the champion has moved, for its automations."""

import sys

from franca.events import CHAMPION_MOVED, send_event
from franca.tracking.history import Entry


def announce(name: str, entry: Entry) -> None:
    """Send an event about an entry of the history that moved the champion; a server that is down stops nothing.

    Args:
        name: Name of the registered model.
        entry: The entry.
    """
    before, after = entry.before or "none", entry.after or "none"
    text = f"champion of {name}: {before} -> {after}, {entry.action} by {entry.actor}: {entry.reason}"
    facts = {
        "model": name,
        "before": entry.before,
        "after": entry.after,
        "action": entry.action,
        "actor": entry.actor,
        "reason": entry.reason,
        "time": entry.time,
    }
    fault = send_event(CHAMPION_MOVED, name, text, facts, entry.flow_run)
    if fault:
        print(f"warning: Prefect was not told of the new champion ({fault}); no alert is sent", file=sys.stderr)
