"""Where a result comes from: commit, uncommitted changes, data, packages and machine."""

import json
import os
import subprocess
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from franca.files import read_json
from franca.params import read_yaml

CODE_PATHS = ("franca", "dvc.yaml", "params.yaml", "data.dvc", "pyproject.toml", "requirements.lock")
LOCK = Path("dvc.lock")


def tags(facts: dict[str, Any]) -> dict[str, str]:
    """Tags of a run: commit, dirty paths, raw data's hash, DVC's experiment, and `facts` of the machine."""
    found: dict[str, Any] = {"mlflow.source.name": "franca", "mlflow.source.type": "LOCAL"}
    if commit := _git("rev-parse", "HEAD"):
        dirty = dirty_paths()
        found["mlflow.source.git.commit"] = commit.strip()
        found["franca.git.dirty"] = str(bool(dirty)).lower()
        found["franca.git.dirty_paths"] = ", ".join(dirty)[:5000] or None
    found["franca.data.md5"] = raw_data_hash()
    for name in ("DVC_EXP_NAME", "DVC_EXP_BASELINE_REV"):
        found[name] = os.environ.get(name)
    for name, value in facts.items():
        if not isinstance(value, dict | list) and name != "fingerprint":
            found[f"franca.run.{name}"] = value
    return {name: str(value) for name, value in found.items() if value is not None}


def dirty_paths() -> list[str]:
    """Code paths that differ from the commit, relative to the current folder, untracked ones too."""
    changed = _git("diff", "--name-only", "--relative", "HEAD", "--", *CODE_PATHS) or ""
    return sorted({*changed.splitlines(), *_untracked()})


def code_diff() -> str:
    """What `git apply` needs to get from the commit to the code that ran; empty where nothing differs."""
    diff = _git("diff", "--binary", "--relative", "HEAD", "--", *CODE_PATHS) or ""
    for path in _untracked():
        diff += _git("diff", "--binary", "--no-index", "--", os.devnull, path) or ""
    return diff


def raw_data_hash() -> str | None:
    """DVC's hash of the folder that `prepare` read, out of dvc.lock."""
    if not LOCK.is_file():
        return None
    deps = read_yaml(LOCK).get("stages", {}).get("prepare", {}).get("deps", [])
    return next((dep.get("md5") for dep in deps if dep["path"] == "data"), None)


@cache
def packages() -> str:
    """Installed packages with their versions, one a line, in the form of a requirements file."""
    names = {(dist.metadata["Name"], dist.version) for dist in metadata.distributions() if dist.metadata["Name"]}
    return "".join(f"{name}=={version}\n" for name, version in sorted(names, key=lambda pair: pair[0].lower()))


def source_requirement() -> str | None:
    """`franca` at this commit as pip can install it from a public remote; None where there is no such remote."""
    remote = (_git("remote", "get-url", "origin") or "").strip()
    commit = (_git("rev-parse", "HEAD") or "").strip()
    return f"franca @ git+{remote}@{commit}" if remote.startswith("https://") and "@" not in remote else None


def stage_seconds(path: Path) -> dict[str, float]:
    """Wall seconds of each stage's last run that ended well, out of `stages.jsonl`."""
    seconds: dict[str, float] = {}
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            with suppress(ValueError):  # a line that a full disk cut short
                record = json.loads(line)
                if record["status"] == "done":
                    seconds[record["stage"]] = float(record["seconds"])
    return seconds


def _untracked() -> list[str]:
    return (_git("ls-files", "--others", "--exclude-standard", "--", *CODE_PATHS) or "").splitlines()


def _git(*arguments: str) -> str | None:
    """Output of a git command in the current folder; None without git or a repository.

    `git diff --no-index` ends with 1 where files differ.
    """
    try:
        done = subprocess.run(
            ["git", *arguments], capture_output=True, encoding="utf-8", errors="surrogateescape", check=False
        )
    except OSError:
        return None
    return done.stdout if done.returncode in (0, 1) else None


def read_facts(folder: Path) -> dict[str, Any]:
    """The machine's facts that the trainer wrote; none where the run folder is not on this machine."""
    path = folder / "run.json"
    return read_json(path) if path.is_file() else {}
