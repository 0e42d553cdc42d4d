"""Upload `metrics.jsonl` of a run folder to an MLflow run, each line once.

`mirror.json` in the folder records how much of the file the server has, so that the next process continues there.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from franca.files import read_json, write_json
from franca.tracking.client import experiment_id, redacted, tracking_uri
from franca.tracking.runs import create_run, find_runs, lock_run_creation, run_exists

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

METRICS = "metrics.jsonl"
BATCH = 1000
"""MLflow's limit of metrics per request."""
_MAX_LINE_BYTES = 1 << 16


@dataclass(frozen=True)
class UploadState:
    """How much of `metrics.jsonl` is uploaded; the content of `mirror.json`.

    Attributes:
        tracking_uri: The server, without user and password.
        run_id: The MLflow run.
        offset: Uploaded bytes of the file.
        step: Step of the last uploaded line; -1 if there is none.
    """

    tracking_uri: str
    run_id: str
    offset: int = 0
    step: int = -1


class CurveUploader:
    """Uploads the metrics of one run folder to one MLflow run."""

    def __init__(self, client: "MlflowClient", folder: Path, run_id: str) -> None:
        self._client = client
        self._folder = folder
        stored = _read_state(folder)
        new = UploadState(redacted(tracking_uri()), run_id)
        same = stored and (stored.tracking_uri, stored.run_id) == (new.tracking_uri, run_id)
        self._state = stored if stored and same else new

    @property
    def run_id(self) -> str:
        """ID of the MLflow run."""
        return self._state.run_id

    @property
    def step(self) -> int:
        """Step of the last line that the server has; -1 if there is none."""
        return self._state.step

    def send(self) -> None:
        """Send every complete line that the server does not have; an incomplete last line waits for the next call."""
        path = self._folder / METRICS
        if not path.is_file():
            return
        sent = self._state.step
        if not _ends_at(path, self._state.offset, sent):
            # A resumed run has truncated the file and written steps again: read it from the start and skip the steps
            # that were sent. MLflow would store a second value for them.
            self._state = replace(self._state, offset=0)
        batch: list[Metric] = []
        position = self._state
        for record, end in _records(path, self._state.offset):
            metrics = _metrics(record) if record["step"] > sent else []
            if len(batch) + len(metrics) > BATCH:
                self._flush(batch, position)
                batch = []
            batch += metrics
            position = replace(position, offset=end, step=max(position.step, record["step"]))
        self._flush(batch, position)

    def _flush(self, batch: "list[Metric]", position: UploadState) -> None:
        for start in range(0, len(batch), BATCH):
            self._client.log_batch(self.run_id, metrics=batch[start : start + BATCH])
        if position != self._state or not (self._folder / "mirror.json").is_file():
            write_json(self._folder / "mirror.json", asdict(position))
        self._state = position


def open_uploader(client: "MlflowClient", folder: Path, experiment: str) -> CurveUploader:
    """Return the uploader of a run folder `pretrain-<fingerprint>`.

    Its MLflow run is the one of `mirror.json` if the server still has it, else the newest with the fingerprint as tag,
    else a new one.
    """
    fingerprint = folder.name.removeprefix("pretrain-")
    stored = _read_state(folder)
    if stored and stored.tracking_uri == redacted(tracking_uri()) and run_exists(client, stored.run_id, fingerprint):
        return CurveUploader(client, folder, stored.run_id)
    experiment = experiment_id(client, experiment, "register.experiment")
    with lock_run_creation(fingerprint):
        runs = find_runs(client, experiment, fingerprint)
        run = runs[0] if runs else create_run(client, experiment, fingerprint)
    return CurveUploader(client, folder, run.info.run_id)


def _read_state(folder: Path) -> UploadState | None:
    try:
        return UploadState(**read_json(folder / "mirror.json"))
    except (OSError, ValueError, TypeError):
        return None


def _records(path: Path, offset: int) -> Iterator[tuple[dict[str, Any], int]]:
    """Yield each record from byte `offset` on, and the offset after it; skip lines that are not records."""
    with path.open("rb") as file:
        file.seek(offset)
        for line in file:
            offset += len(line)
            if not line.endswith(b"\n"):
                return
            if record := _parse(line):
                yield record, offset


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
        return record if isinstance(record["step"], int) and record["time"] and record["metrics"] else None
    except (ValueError, KeyError, TypeError):
        return None


def _metrics(record: dict[str, Any]) -> "list[Metric]":
    from mlflow.entities import Metric

    timestamp = int(record["time"] * 1000)
    return [Metric(key, float(value), timestamp, record["step"]) for key, value in record["metrics"].items()]


def _ends_at(path: Path, offset: int, step: int) -> bool:
    """Return whether the line of `step` ends at `offset`, that is, whether the file up to there is what was sent."""
    if offset == 0:
        return step < 0
    with path.open("rb") as file:
        start = max(0, offset - _MAX_LINE_BYTES)
        file.seek(start)
        before = file.read(offset - start)
    record = _parse(before.splitlines()[-1]) if len(before) == offset - start and before.endswith(b"\n") else None
    return record is not None and record["step"] == step
