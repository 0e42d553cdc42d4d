"""Compare the results of a recorded run with those of its repetition. Imports no torch."""

import hashlib
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from franca.files import read_json, sha256_file
from franca.params import read_yaml
from franca.paths import MODEL, RESULTS
from franca.tracking.recorded_run import RecordedRun
from franca.tracking.run_content import numbers

MODEL_STAGE, LAST_STAGE = "disentangle", "evaluate"
"""The stages that write the compared weights, and the compared scores, report and pictures."""
COMPARED_PACKAGES = ("torch", "torchvision", "timm", "numpy", "pillow", "scipy", "scikit-learn", "matplotlib")
"""Packages whose version can change a result."""
FACTS = {
    "cpu_capability": "instruction set of the CPU",
    "device": "device",
    "threads": "threads",
    "precision": "precision",
    "python": "Python",
}
"""Facts of a machine that can change a result, with their names in the verdict."""


class Verdict(NamedTuple):
    """Whether a repetition gave the same results.

    Attributes:
        run_id: The run.
        commit: Its commit.
        equal: Whether weights, scores, report and pictures are byte for byte the same.
        weights: Whether the weights are.
        scores: Whether `results.json` is.
        report: Whether `report.html` is.
        pictures: Whether each picture is, by name.
        first_difference: The first stage whose outputs differ; None if all are the same.
        metrics: Scores before and after, by name, where they differ.
        reasons: What was different about machine and packages.
    """

    run_id: str
    commit: str
    equal: bool
    weights: bool
    scores: bool
    report: bool
    pictures: dict[str, bool]
    first_difference: str | None
    metrics: dict[str, tuple[float | None, float | None]]
    reasons: list[str]


def compare(recorded: RecordedRun, folder: Path) -> Verdict:
    """Compare a run with its repetition.

    Args:
        recorded: The run.
        folder: The project folder in which it was repeated.
    """
    before, after = recorded.folder / "results/evaluate", folder / RESULTS / "evaluate"
    weights = sha256_file(folder / MODEL / "model.safetensors") == recorded.digest
    scores, report = (_digest(before / name) == _digest(after / name) for name in ("results.json", "report.html"))
    plots = sorted({path.relative_to(root).as_posix() for root in (before, after) for path in root.glob("plots/*")})
    pictures = {name: _digest(before / name) == _digest(after / name) for name in plots}
    old, new = (numbers(read_json(root / "metrics.json")) for root in (before, after))
    metrics = {
        name: (old.get(name), new.get(name))
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    }
    equal = weights and scores and report and all(pictures.values())
    return Verdict(
        recorded.run_id,
        recorded.commit,
        equal,
        weights,
        scores,
        report,
        pictures,
        None if equal else _first_difference(recorded.stages, folder) or (LAST_STAGE if weights else MODEL_STAGE),
        metrics,
        _reasons(recorded, folder),
    )


def verdict_text(verdict: Verdict) -> str:
    """Return the verdict as lines for the terminal."""
    lines = [f"run {verdict.run_id}, commit {verdict.commit[:10]}: {'reproduced' if verdict.equal else 'DIFFERENT'}"]
    different = [name for name, same in verdict.pictures.items() if not same]
    parts = {"weights": verdict.weights, "scores": verdict.scores, "report": verdict.report}
    for name, same in (parts | {"pictures": not different}).items():
        lines.append(f"  {name:10}{'same bytes' if same else 'different'}")
    if different:
        lines.append(f"  different: {', '.join(different)}")
    if verdict.first_difference:
        lines.append(f"  the first stage with other outputs is {verdict.first_difference}")
    if verdict.metrics:
        lines.append(f"  {'score':44}{'before':>12}{'now':>12}")
        lines += [f"  {name:44}{_number(old)}{_number(new)}" for name, (old, new) in verdict.metrics.items()]
    if verdict.reasons:
        lines.append("  not the same as then:" if verdict.equal else "  what may be the reason:")
        lines += [f"    {reason}" for reason in verdict.reasons]
    elif not verdict.equal:
        lines.append("  machine and packages are the same, as far as they were recorded")
    return "\n".join(lines)


def _digest(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def _first_difference(stages: dict[str, Any], folder: Path) -> str | None:
    """Return the first stage, in the order of dvc.yaml, whose outputs have other hashes in the two dvc.lock files.

    None if there is none, as for a run whose dvc.lock was not recorded.
    """
    now = read_yaml(folder / "dvc.lock")["stages"]
    for stage in read_yaml(folder / "dvc.yaml")["stages"]:
        if stage in stages and stage in now:
            before, after = (
                {out["path"]: out.get("md5") for out in part.get("outs", [])} for part in (stages[stage], now[stage])
            )
            if before != after:
                return str(stage)
    return None


def _reasons(recorded: RecordedRun, folder: Path) -> list[str]:
    """Return the differences of packages and machine, as sentences."""
    reasons = []
    for name in COMPARED_PACKAGES:
        before, after = recorded.packages.get(name), _version(name)
        if before != after:
            reasons.append(f"{name} {before or 'missing'} then, {after or 'missing'} now")
    then = recorded.facts
    for path in sorted((folder / "runs").glob("pretrain-*/run.json")) if then else ():
        now = read_json(path)
        for key, name in FACTS.items():
            if then.get(key) != now.get(key):
                reasons.append(f"{name}: {then.get(key)} then, {now.get(key)} now")
    return reasons


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _number(value: float | None) -> str:
    return f"{'-' if value is None else format(value, '.4f'):>12}"
