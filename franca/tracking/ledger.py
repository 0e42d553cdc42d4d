"""Changes of a registered model's aliases. All are made under its lock, and each adds an entry to its history."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from franca.errors import FrancaError
from franca.tracking import history
from franca.tracking.announce import announce
from franca.tracking.decision_text import DECISION, WRITTEN, description_digest, is_ours, with_decision
from franca.tracking.history import Action, Entry
from franca.tracking.judge import REJECTED, Decision
from franca.tracking.model_lock import lock_model
from franca.tracking.registry import CHALLENGER, CHAMPION, PREVIOUS, find_number, run_of

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

WORSE_THAN = "franca.worse_than"
"""Tag of a version that is not better than its baselines; its value names them."""
WAITING = "franca.waiting"
"""Tag of a version that waits for approval: number of the champion that it was compared with, or `none`."""
NONE = "none"


class Ledger:
    """Aliases, tags and history of a locked model."""

    def __init__(self, client: "MlflowClient", name: str, still_held: Callable[[], bool]) -> None:
        self._client = client
        self._name = name
        self._still_held = still_held
        self.moves: list[Entry] = []
        """Entries of this process that moved the champion."""
        self.entries = history.read(client, name)
        self.aliases = {
            alias: str(number) for alias, number in client.get_registered_model(name).aliases.items() if number
        }
        self._note_change_by_hand()

    @property
    def champion(self) -> str | None:
        """Number of the version with the alias `champion`."""
        return self.aliases.get(CHAMPION)

    def version(self, number: str) -> "ModelVersion":
        """Return a version.

        Raises:
            FrancaError: It does not exist.
        """
        found = find_number(self._client, self._name, number)
        if found is None:
            raise FrancaError(f"{self._name}: no version {number}; `franca history` and MLflow's pages list them")
        return found

    def rollback_target(self, leaving: str | None) -> str | None:
        """Return `previous`, else the latest former champion that exists and was not rejected; never `leaving`.

        If no version is champion, because the alias was removed by hand, the last champion comes first.
        """
        preferred = [self.aliases[PREVIOUS]] if leaving and PREVIOUS in self.aliases else []
        for number in [*preferred, *history.former_champions(self.entries)]:
            found = find_number(self._client, self._name, number)
            if number != leaving and found is not None and REJECTED not in found.tags:
                return number
        return None

    def add(
        self, action: Action, number: str, after: str | None, reason: str, decision: Decision | None = None
    ) -> Entry:
        """Add an entry about version `number`, then move the alias `champion` to version `after`.

        The entry comes first: a process that dies in between leaves a trace.
        """
        entry = Entry(
            action,
            number,
            self.champion,
            after,
            reason,
            gates=decision.gates if decision else [],
            suite=decision.suite if decision else None,
            data=decision.data if decision else None,
            run=run_of(self.version(number)),
        )
        self._append(entry)
        if after is not None and after != self.champion:
            self._crown(after, back=action == "rolled back")
            self.moves.append(entry)
        return entry

    def set_alias(self, alias: str, number: str | None) -> None:
        """Move an alias to a version, or remove it."""
        if self.aliases.get(alias) == number:
            return
        self._check_lock()
        if number is None:
            self._client.delete_registered_model_alias(self._name, alias)
            del self.aliases[alias]
        else:
            self._client.set_registered_model_alias(self._name, alias, number)
            self.aliases[alias] = number

    def set_tag(self, number: str, tag: str, value: str | None) -> None:
        """Set a tag of a version, or remove it."""
        if value is not None:
            self._client.set_model_version_tag(self._name, number, tag, value)
        elif tag in self.version(number).tags:
            self._client.delete_model_version_tag(self._name, number, tag)

    def describe(self, number: str, sentences: list[str]) -> None:
        """Write the last decision to description and tag of a version; keep a description that a person wrote."""
        current = self.version(number)
        shown = current.description or ""
        if is_ours(shown, current.tags):
            text = with_decision(shown, sentences)
            self._client.update_model_version(self._name, number, text)
            self.set_tag(number, WRITTEN, description_digest(text))
        self.set_tag(number, DECISION, "\n".join(sentences))

    def _crown(self, number: str, back: bool) -> None:
        """Make a version the champion, and the one before it `previous`; `back` goes to an earlier one."""
        before = self.champion
        self.set_alias(CHAMPION, number)
        if back:
            self.set_alias(PREVIOUS, self._earlier(number))
        elif before is not None:
            self.set_alias(PREVIOUS, before)
        # A challenger that is not newer than the champion is obsolete.
        challenger = self.aliases.get(CHALLENGER)
        if challenger is not None and (challenger == number or (not back and int(challenger) <= int(number))):
            self.set_alias(CHALLENGER, None)
        for tag in (WAITING, REJECTED):
            self.set_tag(number, tag, None)

    def _earlier(self, number: str) -> str | None:
        """Return the champion before the first time that version `number` was it; None if it cannot come back."""
        first = next(entry for entry in self.entries if entry.after == number)
        earlier = find_number(self._client, self._name, first.before) if first.before else None
        return first.before if earlier is not None and REJECTED not in earlier.tags else None

    def _check_lock(self) -> None:
        if not self._still_held():
            raise FrancaError(f"model '{self._name}': this process was suspended and lost its lock; run again")

    def _note_change_by_hand(self) -> None:
        last = history.last_champion(self.entries)
        known = self.entries[-1].after if self.entries else None
        if self.champion == known:
            return
        reason = "the alias was moved by hand, or a command was interrupted" if last else "champion when this began"
        run = run_of(self.version(self.champion)) if self.champion else None
        entry = Entry("found", self.champion, known, self.champion, reason, run=run, actor="unknown")
        self._append(entry)
        self.moves.append(entry)

    def _append(self, entry: Entry) -> None:
        self._check_lock()
        history.append(self._client, self._name, entry, len(self.entries) + 1)
        self.entries.append(entry)


@contextmanager
def open_ledger(client: "MlflowClient", name: str) -> Iterator[Ledger]:
    """Lock a registered model and yield its ledger; then announce moves of the champion."""
    moves: list[Entry] = []
    try:
        with lock_model(client, name) as still_held:
            ledger = Ledger(client, name, still_held)
            moves = ledger.moves
            yield ledger
    finally:
        for entry in moves:
            announce(name, entry)


def record(client: "MlflowClient", name: str, decision: Decision) -> bool:
    """Write a decision of the gates: aliases, tags, description and an entry of the history.

    Returns:
        False, and nothing is written, if the champion is no longer the one that the version was compared with, or the
        version was rejected meanwhile.
    """
    number = decision.version
    with open_ledger(client, name) as ledger:
        if ledger.champion != decision.champion:
            return False
        tags = ledger.version(number).tags
        if REJECTED in tags and decision.outcome in ("promote", "wait", "challenger"):
            return False
        match decision.outcome:
            case "promote":
                ledger.add("promoted", number, number, decision.reason, decision)
            case "wait" if tags.get(WAITING) != (decision.champion or NONE):
                ledger.add("waiting", number, decision.champion, decision.reason, decision)
            case "challenger" | "worse" | "barred":
                ledger.add("not promoted", number, decision.champion, decision.reason, decision)
        if decision.outcome in ("wait", "challenger"):
            ledger.set_alias(CHALLENGER, number)
        if decision.outcome == "worse" and ledger.aliases.get(CHALLENGER) == number:
            ledger.set_alias(CHALLENGER, None)
        ledger.describe(number, decision.sentences)
        ledger.set_tag(number, WAITING, (decision.champion or NONE) if decision.outcome == "wait" else None)
        ledger.set_tag(number, WORSE_THAN, ", ".join(decision.worse_than) or None)
    return True
