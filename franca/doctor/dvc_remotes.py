"""DVC's remotes: can they be reached, and is the package there that they need."""

import socket
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from franca.doctor.dvc_state import Remote, read_config, remotes
from franca.doctor.finding import Finding, ok, problem, warning
from franca.tracking.client import redacted
from franca.web import SECONDS

PLUGINS = {"s3": "dvc_s3", "gs": "dvc_gs", "azure": "dvc_azure", "ssh": "dvc_ssh", "hdfs": "dvc_hdfs"}
PORTS = {"http": 80, "https": 443, "webdav": 80, "webdavs": 443, "ssh": 22}


def check_remotes(root: Path) -> Iterator[Finding]:
    """Yield a finding for each remote; nothing is transferred."""
    if not (root / ".dvc").is_dir():
        yield warning("DVC", "not set up in this folder", "`dvc init`, or change to the project's folder")
        return
    found = remotes(read_config(root))
    if not found:
        yield warning("DVC remotes", "none; data and models are on this machine only", "`dvc remote add -d NAME URL`")
    yield from (_remote(root, remote) for remote in found)


def _remote(root: Path, remote: Remote) -> Finding:
    check, parts = f"DVC remote {remote.name}", urlsplit(remote.url)
    shown = redacted(remote.url)
    if not parts.scheme:
        folder = (root / ".dvc" / remote.url).resolve()
        if folder.is_dir():
            return ok(check, f"{shown}: there")
        return problem(
            check, f"{folder}: no such folder", f"mount it, or `dvc remote modify {remote.name} url FOLDER`"
        )
    plugin = PLUGINS.get(parts.scheme)
    if plugin and find_spec(plugin) is None:
        name = plugin.replace("_", "-")
        return problem(check, f"{shown}: DVC cannot use {parts.scheme}:// without {name}", f"`pip install {name}`")
    place = urlsplit(remote.endpoint or remote.url)
    port = place.port or PORTS.get(place.scheme)
    if not place.hostname or port is None:
        return ok(check, f"{shown}: not asked (`dvc status --cloud` does)")
    try:
        socket.create_connection((place.hostname, port), SECONDS).close()
    except OSError as error:
        fix = f"start it, or `dvc remote modify {remote.name}`"
        return problem(check, f"{shown}: {place.hostname}:{port}: {(error.strerror or str(error)).lower()}", fix)
    return ok(check, f"{shown}: {place.hostname}:{port} accepts connections")
