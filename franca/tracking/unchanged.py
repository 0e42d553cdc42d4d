"""Whether `register` has nothing to do, by the standard library alone: importing MLflow takes seconds.

The receipt of the last run has a digest of everything that `register` reads from files. If that is the same and the
server still has run, model and version as the receipt says, nothing has to be done. In every doubt the answer is no,
and the stage does its usual work.
"""

import hashlib
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlencode, urlsplit
from urllib.request import Request, urlopen

from franca.files import read_json, sha256_file
from franca.params import Params
from franca.paths import MODEL, PREPARED, RESULTS
from franca.tracking.client import redacted, tracking_uri
from franca.tracking.credentials import auth_headers
from franca.tracking.links import links, public_uri

STAGES = ("prepare", "pretrain", "disentangle", "evaluate", "datasets")
"""Stages whose results `register` uploads."""
RECEIPT = RESULTS / "register/receipt.json"
SECONDS = 3
"""Timeout of a request."""
_SQLITE = "sqlite:///"
_DOUBTS = (OSError, sqlite3.Error, ValueError, KeyError, TypeError, AttributeError)
"""What a missing, broken or unknown server or receipt raises; FrancaError is none of them."""
_RUN_TAGS = ("franca.pipeline", "franca.filled", "franca.digest")
_VERSION_TAGS = ("franca.digest", "franca.run", "franca.decision", "franca.judged")


def input_digest(params: Params) -> str:
    """Return the digest of the parameters and of all files that `register` reads.

    The code counts through its version only: a newer one rewrites nothing of a complete run.
    """
    files = [MODEL / "model.safetensors", MODEL / "config.json", PREPARED / "manifest.json"]
    for stage in STAGES:
        files += sorted(path for path in (RESULTS / stage).rglob("*") if path.is_file())
    digests = [[path.as_posix(), sha256_file(path)] for path in files if path.is_file()]
    return hashlib.sha256(json.dumps([params.model_dump(by_alias=True), digests]).encode()).hexdigest()


def read_unchanged(params: Params) -> dict[str, Any] | None:
    """Return the receipt if the server still has what it says, and no input has changed since; None in every doubt."""
    try:
        receipt = dict(read_json(RECEIPT))
        if receipt["tracking_uri"] != redacted(tracking_uri()) or receipt["inputs"] != input_digest(params):
            return None
        pages = links(public_uri(), *(receipt[name] for name in ("experiment_id", "run_id", "model", "version")))
        return receipt if receipt["links"] == pages and _read_state(receipt) == receipt["server"] else None
    except _DOUBTS:
        return None


def read_server_state(receipt: dict[str, Any]) -> dict[str, Any] | None:
    """Return what the server says now about run, version and model of a receipt; None if it cannot be asked here."""
    try:
        return _read_state(receipt)
    except _DOUBTS:
        return None


def _read_state(receipt: dict[str, Any]) -> dict[str, Any]:
    uri = tracking_uri()
    if uri.startswith(_SQLITE) and not set(uri) & set("?%"):  # those have a meaning that SQLAlchemy knows
        return _read_sqlite(Path(uri.removeprefix(_SQLITE)), receipt)
    return _read_server(receipt)


def _read_sqlite(file: Path, receipt: dict[str, Any]) -> dict[str, Any]:
    name, number, run_id = receipt["model"], int(receipt["version"]), receipt["run_id"]
    with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, timeout=SECONDS)) as database:
        ((status, stage),) = database.execute("SELECT status, lifecycle_stage FROM runs WHERE run_uuid = ?", [run_id])
        run_tags = dict(database.execute("SELECT key, value FROM tags WHERE run_uuid = ?", [run_id]))
        key = [name, number]
        ((version_stage,),) = database.execute(
            "SELECT current_stage FROM model_versions WHERE name = ? AND version = ?", key
        )
        version_tags = dict(
            database.execute("SELECT key, value FROM model_version_tags WHERE name = ? AND version = ?", key)
        )
        aliases = database.execute("SELECT alias, version FROM registered_model_aliases WHERE name = ?", [name])
        moved = {alias: str(version) for alias, version in aliases}
        ((place,),) = database.execute(
            "SELECT artifact_location FROM logged_models WHERE model_id = ?", [receipt["model_id"]]
        )
    if version_stage == "Deleted_Internal":
        raise KeyError(number)
    if urlsplit(place).scheme not in ("file", ""):
        raise ValueError(place)
    files = Path(unquote(urlsplit(place).path), "MLmodel").is_file()
    return _state(status, stage, run_tags, version_tags, moved, files)


def _read_server(receipt: dict[str, Any]) -> dict[str, Any]:
    run = _get("runs/get", run_id=receipt["run_id"])["run"]
    version = _get("model-versions/get", name=receipt["model"], version=receipt["version"])["model_version"]
    model = _get("registered-models/get", name=receipt["model"])["registered_model"]
    files = _get(f"logged-models/{receipt['model_id']}/artifacts/directories").get("files", [])
    run_tags, version_tags = (
        {tag["key"]: tag["value"] for tag in item.get("tags", [])} for item in (run["data"], version)
    )
    aliases = {entry["alias"]: str(entry["version"]) for entry in model.get("aliases", [])}
    has_files = any(file["path"].endswith("MLmodel") for file in files)
    return _state(run["info"]["status"], run["info"]["lifecycle_stage"], run_tags, version_tags, aliases, has_files)


def _state(
    status: str,
    stage: str,
    run_tags: dict[str, str],
    version_tags: dict[str, str],
    aliases: dict[str, str],
    has_files: bool,
) -> dict[str, Any]:
    return {
        "run": [status, stage, *(run_tags.get(name) for name in _RUN_TAGS)],
        "version": [version_tags.get(name) for name in _VERSION_TAGS],
        "aliases": dict(sorted(aliases.items())),
        "files": has_files,
    }


def _get(path: str, **query: str) -> dict[str, Any]:
    """Return the answer of MLflow's REST API."""
    uri = tracking_uri()
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https"):
        raise ValueError(parts.scheme)
    request = Request(f"{redacted(uri)}/api/2.0/mlflow/{path}?{urlencode(query)}", headers=auth_headers(uri))
    with urlopen(request, timeout=SECONDS) as answer:
        return dict(json.load(answer))
