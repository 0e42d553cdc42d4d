"""The `franca gc` command: delete what earlier runs have left and nothing needs any more."""

import json
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path

from franca.errors import FrancaError
from franca.params import Params
from franca.paths import runs_root
from franca.retention.experiments import old_experiments
from franca.retention.item import Item, size_of
from franca.retention.run_folders import old_checkpoints
from franca.tracking.client import connect, server_errors
from franca.tracking.old_runs import unregistered_runs
from franca.worktree import find_dead, remove_worktree


def run(params: Params, keep: int, apply: bool, as_json: bool) -> None:
    """List what can be deleted, or delete it.

    Never deleted are models, data, results, DVC's cache, whatever is in use, and the runs of registered versions.

    Args:
        params: The project's parameters.
        keep: How many of the newest pretraining runs, experiments and runs in MLflow stay complete.
        apply: Delete; without it, only say what would be.
        as_json: Print JSON.

    Raises:
        FrancaError: `keep` is below 0, or an item could not be deleted; the others are.
    """
    if keep < 0:
        raise FrancaError(f"--keep {keep}: must be 0 or more")
    items = list(_items(params, runs_root().parent, keep))
    failed = _remove(items) if apply else {}
    if as_json:
        rows = [item._asdict() | {"deleted": apply and item not in failed} for item in items]
        print(json.dumps([{key: value for key, value in row.items() if key != "remove"} for row in rows], indent=2))
    else:
        _show(items, failed, apply)
    if failed:
        raise FrancaError("\n".join(f"{item.kind} {item.name}: {reason}" for item, reason in failed.items()))


def _items(params: Params, root: Path, keep: int) -> Iterator[Item]:
    yield from old_checkpoints(root / "runs", keep)
    for folder in find_dead(root):
        yield Item(
            "worktree", folder.name, "its process has ended", size_of(folder), partial(remove_worktree, root, folder)
        )
    if (root / ".git").exists():
        yield from old_experiments(root, keep)
    with server_errors():
        client = connect()
        for run in islice(unregistered_runs(client, params.register_.experiment), keep, None):
            name, run_id = run.info.run_name or run.info.run_id, run.info.run_id
            yield Item("MLflow run", name, "no registered version came from it", 0, partial(client.delete_run, run_id))


def _remove(items: list[Item]) -> dict[Item, str]:
    """Delete all items; return those that could not be, with the reason."""
    failed: dict[Item, str] = {}
    for item in items:
        try:
            with server_errors():
                item.remove()
        except (FrancaError, OSError) as error:
            failed[item] = str(error)
    return failed


def _show(items: list[Item], failed: dict[Item, str], apply: bool) -> None:
    for item in items:
        size = f"{item.size / 1e6:10,.1f} MB" if item.size else " " * 13
        print(f"{size}  {item.kind} {item.name}: {item.reason}{' (NOT DELETED)' if item in failed else ''}")
    total = sum(item.size for item in items if item not in failed)
    verb = "deleted" if apply else "would be deleted; add --apply to do it"
    count = len(items) - len(failed)
    print(f"{count} item{'s' * (count != 1)}, {total / 1e9:.2f} GB {verb}")
    if apply and any(item.kind == "MLflow run" for item in items):
        print("MLflow keeps deleted runs until `mlflow gc`; DVC's cache shrinks by `dvc gc --workspace --all-commits`")
