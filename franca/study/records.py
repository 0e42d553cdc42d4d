"""What finished cells found, in one JSON file a study, from which its page can be made without the runs."""

import itertools
import json
import statistics
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from franca.errors import FrancaError
from franca.file_lock import lock_file
from franca.files import read_json, sha256_tree, write_json
from franca.git import run_git
from franca.params import read_yaml
from franca.paths import RESULTS
from franca.study.grid import Cell, Study

LAST_STAGE = "evaluate"
"""Cells do not register their models."""
FOLDER = Path("studies/results")

Record = dict[str, Any]


def stages(project: Path) -> list[str]:
    """Return the stages of a cell, in their order."""
    names = list(read_yaml(project / "dvc.yaml")["stages"])
    return names[: names.index(LAST_STAGE) + 1]


def code_version(project: Path) -> dict[str, str]:
    """Return a digest of the code that computes a cell, and the commit it is from."""
    pipeline = read_yaml(project / "dvc.yaml")["stages"]
    files = sorted(
        {dep for stage in stages(project) for dep in pipeline[stage].get("deps", []) if dep.startswith("franca/")}
    )
    # Outside a git repository, as in a copy on another machine, the commit is "".
    commit = run_git("describe", "--always", "--dirty", "--exclude", "*", folder=project, success_codes=(0, 128))
    digest = sha256_tree(*(project / file for file in files))[:16]
    return {"code": digest, "commit": commit.decode().strip()}


def identity(study: Study, cell: Cell) -> Record:
    """Return the part of a record that says which cell it is of."""
    return {
        "name": cell.name(study.name),
        "options": cell.options,
        "seed": cell.seed,
        "params": cell.params_digest,
        "data": cell.data_digest,
    }


def measure(folder: Path, runs: Path) -> Record:
    """Return what the stages of a cell have found; nothing in it names a path or a machine.

    Args:
        folder: The project's folder.
        runs: The folder of its training runs.
    """
    results = read_json(folder / RESULTS / "evaluate/results.json")
    pretrain = read_json(folder / RESULTS / "pretrain/metrics.json")
    scores: dict[str, dict[str, dict[str, float]]] = {}
    for row in results["rows"]:
        if row["split"] == "test":
            scores.setdefault(row["model"], {}).setdefault(row["benchmark"], {})[row["metric"]] = row["value"]
    return {
        "steps": pretrain["steps"],
        "loss": pretrain.get("loss"),
        "run": _run_facts(runs / f"pretrain-{pretrain['fingerprint']}"),
        "model_digest": results["model_digest"],
        "scores": scores,
    }


def _run_facts(folder: Path) -> dict[str, Any]:
    """Return what the run's folder says of cost and machine; nothing if it is gone, as after a run on another one.

    Times are no outputs of stages, which are the same however fast the machine is.
    """
    if not (folder / "run.json").exists():
        return {}
    facts = read_json(folder / "run.json")
    kept = {name: facts.get(name) for name in ("head_parameters", "device", "cpu_capability", "threads", "precision")}
    lines = [line for line in _readings(folder / "metrics.jsonl") if "train/loss" in line["metrics"]]
    paces = [
        1000 * (after["time"] - before["time"]) / (after["step"] - before["step"])
        for before, after in itertools.pairwise(lines)
    ]
    memory = [line["metrics"]["train/memory_gib"] for line in lines if "train/memory_gib" in line["metrics"]]
    return kept | {
        # The median leaves out pauses: evaluation, checkpoints, and the time between a kill and the next start.
        "step_ms": round(statistics.median(paces), 1) if paces else None,
        "memory_gib": round(max(memory), 3) if memory else None,
    }


def _readings(path: Path) -> Iterator[dict[str, Any]]:
    if path.exists():
        for line in path.read_text(encoding="utf-8").split("\n")[:-1]:
            yield json.loads(line)


def path_of(study: Study, root: Path) -> Path:
    """Return the file that holds the study's results."""
    return root / FOLDER / f"{study.name}.json"


def load(study: Study, root: Path) -> list[Record]:
    """Return the records of a study's finished cells; none if it has not run."""
    path = path_of(study, root)
    if not path.exists():
        return []
    try:
        return list(read_json(path)["cells"])
    except (ValueError, KeyError, TypeError):
        raise FrancaError(f"{path}: not the results of a study; restore it or remove it to run all cells") from None


def find(records: Iterable[Record], cell: Cell) -> Record | None:
    """Return the record of a cell; by its parameters alone if its data are not known."""
    for record in records:
        if record["params"] == cell.params_digest and cell.data_digest in ("", record["data"]):
            return record
    return None


def add(study: Study, root: Path, record: Record) -> None:
    """Write a cell's record, in place of what was there of the same options and seed."""
    _update(study, root, lambda records: [*(old for old in records if not _same_place(old, record)), record])


def drop_stale(study: Study, root: Path, cells: list[Cell]) -> list[str]:
    """Remove records of the options and seeds of `cells` that were run with other parameters or data.

    Returns:
        Their names.
    """
    wanted = {(cell.params_digest, cell.data_digest) for cell in cells}
    places = [{"options": cell.options, "seed": cell.seed} for cell in cells]

    def stale(record: Record) -> bool:
        known = (record["params"], record["data"]) in wanted
        return not known and any(_same_place(record, place) for place in places)

    names = [record["name"] for record in load(study, root) if stale(record)]
    if names:
        _update(study, root, lambda records: [record for record in records if not stale(record)])
    return names


def _same_place(one: Record, other: Record) -> bool:
    return bool(one["options"] == other["options"] and one["seed"] == other["seed"])


def _update(study: Study, root: Path, change: Callable[[list[Record]], list[Record]]) -> None:
    (root / FOLDER).mkdir(parents=True, exist_ok=True)
    with lock_file(root / FOLDER / ".lock"):  # two processes may run different cells of one study
        records = sorted(change(load(study, root)), key=lambda record: (*record["options"].values(), record["seed"]))
        write_json(path_of(study, root), {"cells": records})
