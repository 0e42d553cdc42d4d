"""Automations of the Prefect server, as code: what marks silent runs as crashed, and what sends alerts.

`flows/deploy.py` deploys them together with the flows. An automation is found by its name: deploying again changes
nothing, and what is paused on the server stays paused.
"""

import os
from datetime import timedelta
from typing import Any

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ActionTypes, ChangeFlowRunState
from prefect.events.schemas.automations import Automation, AutomationCore, EventTrigger, Posture

from flows.alert import VARIABLE, Alerts
from franca.events import CHAMPION_MOVED, DATA_CHANGED, DRIFT_FOUND, MODEL

PREFIX = "franca: "
TAG = "franca"
"""Tag of the deployments of prefect.yaml, and so of their runs: other runs on the server are not ours."""
SILENT = timedelta(minutes=10)
"""Time without a heartbeat after which a run counts as dead; longer than the server may be away."""

_Labels = dict[str, str | list[str]]

_OURS: _Labels = {"prefect.resource.id": f"prefect.tag.{TAG}", "prefect.resource.role": "tag"}
_RUN: _Labels = {"prefect.resource.id": "prefect.flow-run.*"}
_RUN_TEXT = "{{ flow.name }} run {{ flow_run.name }} "
_MESSAGE = "event.resource['prefect.state-message']"
_RUN_FIELDS = {"flow": "flow.name", "run": "flow_run.name", "message": _MESSAGE, "url": "flow_run | ui_url or ''"}


def deploy_automations(client: SyncPrefectClient) -> None:
    """Create or update the automations on the server.

    Without FRANCA_ALERT_URL, alerts that another machine has deployed stay as they are.

    Raises:
        FrancaError: FRANCA_ALERT_URL is not an address.
    """
    wanted = [silent(SILENT)]
    if address := os.environ.get(VARIABLE, "").strip():
        wanted += alerts(Alerts(address))
    for automation in wanted:
        _deploy(client, automation)


def silent(within: timedelta) -> AutomationCore:
    """Return the automation that marks a run as crashed if nothing was heard of it for a while.

    Every event of a run is a sign of life: it may have ended, or wait for a worker or a person, with no heartbeats.
    """
    return AutomationCore(
        name=f"{PREFIX}silent",
        description=f"Marks a run as crashed that has sent no heartbeat for {within.total_seconds():.0f} s.",
        tags=[TAG],
        trigger=EventTrigger(
            after={"prefect.flow-run.heartbeat"},
            expect={"prefect.flow-run.*"},
            match=_RUN,
            match_related=_OURS,
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=within,
        ),
        actions=[
            ChangeFlowRunState(
                name=None,
                force=False,
                state=StateType.CRASHED,
                message=f"no heartbeat for {within.total_seconds():.0f} s: its machine or its process is gone",
            )
        ],
    )


def alerts(to: Alerts) -> list[AutomationCore]:
    """Return the automations that send alerts.

    Args:
        to: Where they go.
    """
    return [
        _on_state("failed", "FAILED", to),
        _on_state("crashed", "CRASHED", to),
        _reactive(
            "late",
            "A run that no worker has started in time.",
            {"prefect.flow-run.Late"},
            _RUN,
            to.action("A run is late", f"{_RUN_TEXT}is late: no worker has started it", **_RUN_FIELDS),
            _OURS,
        ),
        _on_event("champion moved", CHAMPION_MOVED, to),
        _on_event("data changed", DATA_CHANGED, to),
        _on_event("drift found", DRIFT_FOUND, to),
    ]


def _on_state(name: str, kind: str, to: Alerts) -> AutomationCore:
    action = to.action(f"A run {name}", f"{_RUN_TEXT}{name}: {{{{ {_MESSAGE} }}}}", **_RUN_FIELDS)
    # By type: a state can have any name.
    match: _Labels = _RUN | {"prefect.state-type": kind}
    return _reactive(name, f"A run in a state of type {kind}.", {"prefect.flow-run.*"}, match, action, _OURS)


def _on_event(name: str, event: str, to: Alerts) -> AutomationCore:
    text = "{{ event.payload['text'] }}"
    action = to.action(name.capitalize(), text, payload="event.payload | tojson")
    return _reactive(name, f"The event {event}.", {event}, {"prefect.resource.id": f"{MODEL}.*"}, action, {})


def _reactive(
    name: str, description: str, events: set[str], match: _Labels, action: ActionTypes, related: _Labels
) -> AutomationCore:
    return AutomationCore(
        name=f"{PREFIX}{name}",
        description=description,
        tags=[TAG],
        trigger=EventTrigger(
            expect=events,
            match=match,
            match_related=related,
            posture=Posture.Reactive,
            threshold=1,
            within=timedelta(0),
        ),
        actions=[action],
    )


def _deploy(client: SyncPrefectClient, wanted: AutomationCore) -> None:
    found = sorted(client.read_automations_by_name(wanted.name), key=lambda automation: automation.id)
    for extra in found[1:]:  # of two workers that deployed at the same time
        client.delete_automation(extra.id)
    if not found:
        client.create_automation(wanted)
        return
    kept = wanted.model_copy(update={"enabled": found[0].enabled})
    # An update would make the server forget the runs that it waits to hear of.
    if _content(found[0]) != _content(kept):
        client.update_automation(found[0].id, kept)


def _content(automation: Automation | AutomationCore) -> dict[str, Any]:
    """Return what an automation consists of apart from its ID."""
    return AutomationCore.model_validate(automation.model_dump(mode="json")).model_dump(mode="json")
