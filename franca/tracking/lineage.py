"""Lineage of a run: commit, uncommitted changes, data hash, packages and machine."""

import configparser
import json
import os
import re
import sys
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from franca.errors import FrancaError
from franca.files import read_json, sha256_file
from franca.git import run_git
from franca.params import read_yaml

CODE_PATHS = ("franca", "dvc.yaml", "params.yaml", "data.dvc", "pyproject.toml", "requirements.lock")
"""What `dirty_paths` and `code_diff` look at; data and results are recorded by their hashes."""
LOCK = Path("dvc.lock")
REQUIREMENTS = Path("requirements.lock")


def tags(facts: dict[str, Any]) -> dict[str, str]:
    """Return the tags of a run: commit, dirty paths, hash of the raw data, DVC experiment and machine `facts`."""
    found: dict[str, Any] = {"mlflow.source.name": "franca", "mlflow.source.type": "LOCAL"}
    if commit := _git("rev-parse", "HEAD"):
        dirty = dirty_paths()
        found["mlflow.source.git.commit"] = commit.strip()
        found["franca.git.dirty"] = str(bool(dirty)).lower()
        found["franca.git.dirty_paths"] = ", ".join(dirty)[:5000] or None  # the limit of MLflow's database
        found["mlflow.source.git.repoURL"] = _repository()
        # Nobody else can reproduce a run whose commit is on this machine only.
        found["franca.git.pushed"] = str(bool(_git("branch", "--remotes", "--contains", "HEAD"))).lower()
    found["franca.data.md5"] = raw_data_hash()
    found["franca.data.remote"] = data_remote()
    found["franca.lock"] = sha256_file(REQUIREMENTS)[:16] if REQUIREMENTS.is_file() else None
    for name in ("DVC_EXP_NAME", "DVC_EXP_BASELINE_REV"):
        found[name] = os.environ.get(name)
    found["franca.flow_run"] = os.environ.get("FRANCA_FLOW_RUN")
    found["franca.flow_run.url"] = os.environ.get("FRANCA_FLOW_RUN_URL")
    for name, value in facts.items():
        if not isinstance(value, dict | list) and name != "fingerprint":
            found[f"franca.run.{name}"] = value
    return {name: str(value) for name, value in found.items() if value is not None}


def recorded_commit(path: Path, text: str) -> str | None:
    """Return the first commit in which the file `path` has `text`, if the present commit has it as well.

    None without git, or if no commit has it.
    """
    commits = (_git("log", "--format=%H", "-S", text, "--", str(path)) or "").split()
    return commits[-1] if commits and text in (_git("show", f"HEAD:./{path}") or "") else None


def dirty_paths() -> list[str]:
    """Return code paths that differ from the commit or are untracked, relative to the current folder."""
    changed = _git("diff", "--name-only", "--relative", "HEAD", "--", *CODE_PATHS) or ""
    return sorted({*changed.splitlines(), *_untracked()})


def code_diff() -> str:
    """Return a patch for `git apply` that turns the commit into the code that ran; empty if nothing differs."""
    diff = _git("diff", "--binary", "--relative", "HEAD", "--", *CODE_PATHS) or ""
    for path in _untracked():
        diff += _git("diff", "--binary", "--no-index", "--", os.devnull, path) or ""
    return diff


def raw_data_hash() -> str | None:
    """Return DVC's hash of the folder that `prepare` read, from dvc.lock."""
    if not LOCK.is_file():
        return None
    deps = read_yaml(LOCK).get("stages", {}).get("prepare", {}).get("deps", [])
    return next((dep.get("md5") for dep in deps if dep["path"] == "data"), None)


def data_remote() -> str:
    """Return the name of DVC's remote for `data.dvc`, or `none`: the data are then on this machine only."""
    pointer, config = Path("data.dvc"), configparser.ConfigParser()
    outs = read_yaml(pointer).get("outs", []) if pointer.is_file() else []
    config.read([".dvc/config", ".dvc/config.local"])
    default = config.get("core", "remote", fallback="none")
    return str(next((out["remote"] for out in outs if "remote" in out), default))


@cache
def packages() -> str:
    """Return the installed packages and versions as a requirements file."""
    names = {(dist.metadata["Name"], dist.version) for dist in metadata.distributions() if dist.metadata["Name"]}
    return "".join(f"{name}=={version}\n" for name, version in sorted(names, key=lambda pair: pair[0].lower()))


def source_requirement() -> str | None:
    """Return a pip requirement of `franca` at this commit; None if the remote `origin` is not a public HTTPS URL."""
    remote = _repository() or ""
    commit = (_git("rev-parse", "HEAD") or "").strip()
    return f"franca @ git+{remote}@{commit}" if remote.startswith("https://") and "@" not in remote else None


def _repository() -> str | None:
    """Return the URL of the remote `origin` without a password; None without a remote."""
    url = (_git("remote", "get-url", "origin") or "").strip()
    return re.sub(r"(?<=://)[^/@]*:[^/@]*@", "", url) or None


def stage_seconds(path: Path) -> dict[str, float]:
    """Return the wall-clock seconds of the last successful run of each stage, from `stages.jsonl`."""
    seconds: dict[str, float] = {}
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            with suppress(ValueError):  # an incomplete line, as after a full disk
                record = json.loads(line)
                if record["status"] == "done":
                    seconds[record["stage"]] = float(record["seconds"])
    return seconds


def _untracked() -> list[str]:
    return (_git("ls-files", "--others", "--exclude-standard", "--", *CODE_PATHS) or "").splitlines()


def _git(*arguments: str) -> str | None:
    """Return the output of a git command in the current folder; None without git or a repository.

    Prints a warning if git refuses a repository that belongs to another user, as one that is mounted into a container
    may: the run would lose its commit without anyone noticing.
    """
    try:
        return run_git(*arguments, success_codes=(0, 1)).decode("utf-8", "surrogateescape")
    except FrancaError as error:
        if "dubious ownership" in str(error):
            _warn_of_owner(str(Path.cwd()))
        return None


@cache
def _warn_of_owner(folder: str) -> None:
    print(
        f"{folder}: git refuses it since it belongs to another user, so the run is recorded without its commit; run"
        f" `git config --global --add safe.directory {folder}`",
        file=sys.stderr,
    )


def read_facts(folder: Path) -> dict[str, Any]:
    """Return the machine facts that the trainer wrote; empty if the run folder is not on this machine."""
    path = folder / "run.json"
    return read_json(path) if path.is_file() else {}
