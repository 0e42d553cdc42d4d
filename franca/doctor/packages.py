"""Installed packages against requirements.lock."""

import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.version import Version

from franca.doctor.finding import Finding, ok, problem, warning

CHECK = "packages"
LOCK = "requirements.lock"
SHOWN = 4
_INSTALL = "`make demo`, or `pip install --no-deps --require-hashes -r requirements.lock`"


def check_packages(root: Path) -> Iterator[Finding]:
    """Yield findings about the packages that the lock file names for this machine."""
    yield from _torch_pair()
    if not (root / LOCK).exists():
        yield ok(CHECK, f"no {LOCK} here; Python {sys.version.split()[0]}")
        return
    locked = read_lock(root / LOCK)
    installed = {name: _installed(name) for name in locked}
    missing = sorted(name for name, version in installed.items() if version is None)
    other = sorted(
        f"{name} {version} (not {locked[name]})"
        for name, version in installed.items()
        if version is not None and version.public != locked[name].public
    )
    if missing:
        yield problem(CHECK, f"not installed: {_shown(missing)}", _INSTALL)
    if other:
        yield warning(CHECK, f"of other versions than in {LOCK}: {_shown(other)}", _INSTALL)
    if not missing and not other:
        yield ok(CHECK, f"{len(locked)} as in {LOCK}, Python {sys.version.split()[0]}")


def read_lock(path: Path) -> dict[str, Version]:
    """Return name and version of the packages of a lock file whose markers fit this machine."""
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line[:1].isalnum():
            continue  # a hash or a comment
        try:
            requirement = Requirement(line.rstrip("\\ "))
        except InvalidRequirement:
            continue
        pins = [entry.version for entry in requirement.specifier if entry.operator == "=="]
        if pins and (requirement.marker is None or requirement.marker.evaluate()):
            found[requirement.name] = Version(pins[0])
    return found


def _installed(name: str) -> Version | None:
    try:
        return Version(metadata.version(name))
    except metadata.PackageNotFoundError:
        return None


def _torch_pair() -> Iterator[Finding]:
    """Yield a finding if torch and torchvision are of different builds; the import then fails."""
    torch, vision = _installed("torch"), _installed("torchvision")
    if torch is not None and vision is not None and torch.local != vision.local:
        fix = "install both from the same index, as in docs/install.md"
        yield problem(CHECK, f"torch {torch} and torchvision {vision} are of different builds", fix)


def _shown(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
