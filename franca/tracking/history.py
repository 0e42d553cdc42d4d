"""The history of a registered model: which version was champion when, who decided it, and why.

An entry is a parameter of an MLflow run that each model has in the experiment `franca-history`. MLflow refuses to
change or delete a parameter that was logged, so the history can only grow, and it survives the deletion of versions.
Entries are numbered while the model is locked, so their order does not depend on the clocks of machines.
"""

import getpass
import hashlib
import json
import os
import re
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from franca.tracking.client import experiment_id

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

EXPERIMENT = "franca-history"
TAG = "franca.history"
"""Tag of a history's run: the name of the registered model."""
FLOW_RUN = "FRANCA_FLOW_RUN"
"""Environment variable in which a flow tells its commands who they run for."""
ACTOR = "FRANCA_ACTOR"
"""Environment variable in which a flow tells its commands the name that a person gave in its form."""
MAX_VALUE = 6000
"""MLflow's limit for the value of a parameter, in characters."""
MAX_REASON = 1000
"""Longest reason that a person can give, in characters."""

_KEY = re.compile(r"\d{6,} [0-9a-f]{8}")
"""Name of an entry's parameter: its number, and random digits that keep apart two entries with one number."""

Action = Literal["promoted", "not promoted", "waiting", "approved", "rejected", "rolled back", "found"]
"""`found`: the champion was not the one of the last entry, as after a change in MLflow's pages."""


@dataclass(frozen=True)
class Entry:
    """One decision.

    Attributes:
        action: What was done.
        version: The version that it was done to; None if the alias `champion` was removed by hand.
        before: Version that had the alias `champion` before; None if none had it.
        after: Version that has it since.
        reason: The outcome of the gates, or what a person gave as the reason.
        gates: Metric, result and sentence of each gate that was checked.
        suite: Digest of the evaluation suite of the results that were judged.
        data: Digest of the data that they were measured on.
        run: MLflow run with the results of `version`.
        actor: Who did it: the user of the tracking server, else of the machine.
        flow_run: The Prefect flow run that did it, if any.
        time: When, in UTC.
    """

    action: Action
    version: str | None
    before: str | None
    after: str | None
    reason: str
    gates: list[dict[str, Any]] = field(default_factory=list)
    suite: str | None = None
    data: str | None = None
    run: str | None = None
    actor: str = field(default_factory=lambda: actor())
    flow_run: str | None = field(default_factory=lambda: os.environ.get(FLOW_RUN))
    time: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))


def actor() -> str:
    """Return the user of the tracking server, else of the machine; with the name given in a flow's form, if any."""
    name = os.environ.get(ACTOR)
    return f"{name} (form, as {_account()})" if name else _account()


def _account() -> str:
    if name := os.environ.get("MLFLOW_TRACKING_USERNAME"):
        return name
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user ID without an account, as in containers
        return f"user {os.getuid()}"


def suite_digest(results: dict[str, Any]) -> str:
    """Return a short digest of the suite of a `results.json`."""
    return hashlib.sha256(json.dumps(results.get("suite"), sort_keys=True).encode()).hexdigest()[:12]


def read(client: "MlflowClient", name: str) -> list[Entry]:
    """Return the history of a model, oldest entry first."""
    from mlflow.entities import ViewType

    values = {key: value for run in _runs(client, name, ViewType.ALL) for key, value in run.data.params.items()}
    known = {part.name for part in fields(Entry)}
    entries = [json.loads(values[key]) for key in sorted(values) if _KEY.fullmatch(key)]
    return [Entry(**{part: value for part, value in entry.items() if part in known}) for entry in entries]


def append(client: "MlflowClient", name: str, entry: Entry, number: int) -> None:
    """Add an entry with the next number; the caller has locked the model and read its history."""
    from mlflow.entities import ViewType

    run = next(iter(_runs(client, name, ViewType.ACTIVE_ONLY)), None)
    if run is None:
        run = client.create_run(experiment_id(client, EXPERIMENT), tags={TAG: name}, run_name=name)
        client.set_terminated(run.info.run_id)
    client.log_param(run.info.run_id, f"{number:06d} {uuid.uuid4().hex[:8]}", _text(entry))


def last_champion(entries: Sequence[Entry]) -> Entry | None:
    """Return the entry that made the last champion one; None if there was none."""
    reigns = [entry for entry in entries if entry.after is not None and entry.after != entry.before]
    return reigns[-1] if reigns else None


def former_champions(entries: Sequence[Entry]) -> list[str]:
    """Return all versions that were champion, the latest first, each once."""
    numbers = [number for entry in reversed(entries) for number in (entry.after, entry.before) if number is not None]
    return list(dict.fromkeys(numbers))


def _runs(client: "MlflowClient", name: str, view: int) -> "list[Run]":
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        return []
    asked = f"tags.`{TAG}` = '{name}'"
    return list(client.search_runs([experiment.experiment_id], asked, view, order_by=["attributes.start_time ASC"]))


def _text(entry: Entry) -> str:
    """Return an entry as JSON that MLflow does not cut; the sentences of many gates are shortened."""
    for length in (1000, 200, 100, 0):
        gates = [gate | {"sentence": gate["sentence"][:length]} for gate in entry.gates]
        text = json.dumps(asdict(replace(entry, gates=gates)), ensure_ascii=False)
        if len(text) <= MAX_VALUE:
            return text
    return json.dumps(asdict(replace(entry, gates=[], reason=entry.reason[:MAX_REASON])), ensure_ascii=False)
