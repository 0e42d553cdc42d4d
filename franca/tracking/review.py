"""What people decide about versions of the registered model: approve, reject, roll back; and the history of it all."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from franca.errors import FrancaError
from franca.params import Params
from franca.tracking import history
from franca.tracking.client import connect, server_errors
from franca.tracking.history import MAX_REASON, Entry
from franca.tracking.judge import REJECTED
from franca.tracking.ledger import NONE, WAITING, Ledger, open_ledger
from franca.tracking.registry import CHALLENGER, PREVIOUS


def approve(params: Params, version: str | None, reason: str, as_json: bool = False) -> None:
    """Make a version the champion, whatever its gates said.

    Args:
        params: Names the model.
        version: Number of the version; None for the one that waits for approval.
        reason: Why; it is kept in the history.
        as_json: Print JSON.

    Raises:
        FrancaError: There is no such version, or the champion is no longer the one that a waiting version was compared
            with.
    """
    name = params.register_.model_name
    with _ledger(name, reason) as (ledger, reason):
        number = version or _waiting(ledger, name)
        tags = ledger.version(number).tags
        if number == ledger.champion:
            raise FrancaError(f"{name} version {number} is the champion already")
        judged, now = tags.get(WAITING), ledger.champion or NONE
        if judged is not None and judged != now:
            raise FrancaError(
                f"{name} version {number} was compared with champion {judged}, which is {now} now; "
                "run `franca promote --apply` to check its gates again"
            )
        entry = ledger.add("approved", number, number, reason)
        ledger.describe(number, [f"approved by {entry.actor}: {reason}"])
    _print(name, entry, as_json)


def reject(params: Params, version: str | None, reason: str, as_json: bool = False) -> None:
    """Keep a version from becoming champion by its gates, now and later. Takes the arguments of `approve`.

    Raises:
        FrancaError: There is no such version, or it is the champion.
    """
    name = params.register_.model_name
    with _ledger(name, reason) as (ledger, reason):
        number = version or _waiting(ledger, name)
        ledger.version(number)
        if number == ledger.champion:
            raise FrancaError(f"{name} version {number} is the champion; `franca rollback --reason TEXT` replaces it")
        entry = ledger.add("rejected", number, ledger.champion, reason)
        _mark_rejected(ledger, number, entry)
    _print(name, entry, as_json)


def rollback(params: Params, to: str | None, reason: str, as_json: bool = False) -> None:
    """Make an earlier champion the champion again, and reject the present one.

    Args:
        params: Names the model.
        to: Number of the earlier champion; None for the one before the present one.
        reason: Why; it is kept in the history.
        as_json: Print JSON.

    Raises:
        FrancaError: There is no earlier champion.
    """
    name = params.register_.model_name
    with _ledger(name, reason) as (ledger, reason):
        leaving = ledger.champion
        target = to or ledger.rollback_target(leaving)
        if target is None:
            raise FrancaError(f"{name}: no earlier champion to go back to; `franca approve VERSION` names another one")
        ledger.version(target)
        if target == leaving:
            raise FrancaError(f"{name} version {target} is the champion already")
        if target not in history.former_champions(ledger.entries):
            raise FrancaError(f"{name} version {target} was never champion; use `franca approve {target}`")
        entry = ledger.add("rolled back", target, target, reason)
        ledger.describe(target, [f"champion again by {entry.actor}: {reason}"])
        if leaving is not None:
            _mark_rejected(ledger, leaving, entry)
        previous = ledger.aliases.get(PREVIOUS)
    _print(name, entry, as_json, {"rejected": leaving, "previous": previous})


def show(params: Params, as_json: bool = False) -> None:
    """Print the history of the model, oldest entry first."""
    name = params.register_.model_name
    client = connect()
    with server_errors():
        entries = history.read(client, name)
    if as_json:
        print(json.dumps([asdict(entry) for entry in entries], indent=2))
    elif entries:
        print("\n".join(line for entry in entries for line in lines(entry)))
    else:
        print(f"{name}: no history yet; `franca register` begins it")


def lines(entry: Entry) -> list[str]:
    """Return an entry as lines for the terminal."""
    version = f"version {entry.version} " if entry.version else ""
    head = f"{entry.time}  {version}{entry.action} by {entry.actor}; {_champion(entry)}"
    facts = []
    if entry.suite and entry.data:
        facts.append(f"suite {entry.suite}, data {entry.data[:12]}")
    if entry.flow_run:
        facts.append(f"flow run {entry.flow_run}")
    gates = [
        f"    {'pass' if gate['passed'] else 'FAIL'}  {gate['sentence'] or gate['metric']}" for gate in entry.gates
    ]
    return [head, f"    {entry.reason}", *gates, *(f"    {fact}" for fact in facts)]


@contextmanager
def _ledger(name: str, reason: str) -> Iterator[tuple[Ledger, str]]:
    """Lock the model and yield its ledger, and the reason on one line.

    Raises:
        FrancaError: The reason is empty or too long, or there is no model of this name.
    """
    text = " ".join(reason.split())
    if not 0 < len(text) <= MAX_REASON:
        raise FrancaError(f"--reason: has {len(text)} characters; give 1 to {MAX_REASON}")
    client = connect()
    with server_errors():
        if not client.search_registered_models(f"name = '{name}'"):
            raise FrancaError(f"{name}: no model of this name is registered; run `franca register` first")
        with open_ledger(client, name) as ledger:
            yield ledger, text


def _waiting(ledger: Ledger, name: str) -> str:
    """Return the version that waits for approval."""
    number = ledger.aliases.get(CHALLENGER)
    if number is None or WAITING not in ledger.version(number).tags:
        raise FrancaError(f"{name}: no version waits for approval; name one, as in `franca approve 3 --reason TEXT`")
    return number


def _mark_rejected(ledger: Ledger, number: str, entry: Entry) -> None:
    text = f"by {entry.actor}: {entry.reason}"
    ledger.set_tag(number, REJECTED, text)
    ledger.set_tag(number, WAITING, None)
    ledger.describe(number, [f"rejected {text}"])
    if ledger.aliases.get(CHALLENGER) == number:
        ledger.set_alias(CHALLENGER, None)


def _print(name: str, entry: Entry, as_json: bool, more: dict[str, Any] | None = None) -> None:
    if as_json:
        print(json.dumps({"model": name} | asdict(entry) | (more or {})))
        return
    print(f"{name}: {_champion(entry)}")
    if entry.action == "rejected":
        print(f"version {entry.version} is rejected: it does not become champion by its gates any more")
    for what, number in (more or {}).items():
        print(f"{what}: {f'version {number}' if number else NONE}")


def _champion(entry: Entry) -> str:
    before, after = entry.before or NONE, entry.after or NONE
    return f"champion {before} -> {after}" if before != after else f"champion {after}"
