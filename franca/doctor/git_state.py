"""Git: the commit that lineage will name, identity, uncommitted changes, leftover locks."""

import time
from collections.abc import Iterator
from pathlib import Path

from franca.doctor.finding import Finding, ok, problem, warning
from franca.errors import FrancaError
from franca.git import run_git

CHECK = "git"
STALE_SECONDS = 600.0
"""An index.lock that is older than this was left by a process that died."""


def check_git(root: Path) -> Iterator[Finding]:
    """Yield findings about the project's repository."""
    try:
        folder = Path(_git(root, "rev-parse", "--absolute-git-dir"))
    except FrancaError as error:
        yield _no_repository(root, str(error))
        return
    yield _commit(root)
    yield from _identity(root)
    yield from _stale_lock(folder / "index.lock")


def _git(root: Path, *arguments: str) -> str:
    return run_git(*arguments, folder=root).decode(errors="replace").strip()


def _no_repository(root: Path, reason: str) -> Finding:
    # Git's messages are translated; the setting that one of them names is not.
    if "safe.directory" in reason:
        fix = f"`git config --global --add safe.directory {root}` as this user"
        return problem(CHECK, f"{root} belongs to another user, so git refuses it and lineage has no commit", fix)
    if not any((folder / ".git").exists() for folder in (root, *root.parents)):
        return warning(CHECK, "not a repository; runs have no commit, and flows no worktrees", "`git init`, commit")
    return problem(CHECK, reason.partition("\n")[0], "`git status` says more")


def _commit(root: Path) -> Finding:
    try:
        commit = _git(root, "rev-parse", "--short", "HEAD")
    except FrancaError:
        return warning(CHECK, "no commit yet; runs have none to name", "commit the project")
    changed = len(_git(root, "status", "--porcelain", "--untracked-files=no").splitlines())
    if changed:
        text = f"commit {commit} with {changed} changed file{'s' * (changed != 1)}"
        return warning(CHECK, f"{text}; runs are marked as of uncommitted code", "commit, or `git stash`")
    return ok(CHECK, f"commit {commit}, nothing changed")


def _identity(root: Path) -> Iterator[Finding]:
    missing = []
    for name in ("user.name", "user.email"):
        try:
            _git(root, "config", name)
        except FrancaError:
            missing.append(name)
    if missing:
        fix = "; ".join(f"`git config --global {name} ...`" for name in missing)
        yield warning("git identity", f"no {' and no '.join(missing)}; `dvc exp apply` and commits need it", fix)


def _stale_lock(path: Path) -> Iterator[Finding]:
    if path.exists() and time.time() - path.stat().st_mtime > STALE_SECONDS:
        fix = f"`rm {path}` if no git command runs"
        yield problem("git lock", f"{path.name} was left by a process that died; git refuses to write", fix)
