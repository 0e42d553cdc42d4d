"""Send the lines of `metrics.jsonl` to an MLflow run, each once, and remember in `mirror.json` how far that got."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from franca.files import read_json, write_json
from franca.tracking.client import experiment_id, redacted, tracking_uri
from franca.tracking.runs import create_run, find_runs, sole_creator, still_there

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

METRICS = "metrics.jsonl"
BATCH = 1000
_LINE_BYTES = 1 << 16


@dataclass(frozen=True)
class Progress:
    """`offset` bytes of the file are in run `run_id` of the server `tracking_uri`; the last line sent is `step`'s."""

    tracking_uri: str
    run_id: str
    offset: int = 0
    step: int = -1


class Curves:
    """The curves of one run folder on their way to one MLflow run."""

    def __init__(self, client: "MlflowClient", folder: Path, run_id: str) -> None:
        self._client = client
        self._folder = folder
        remembered = _read_progress(folder)
        fresh = Progress(redacted(tracking_uri()), run_id)
        same = remembered and (remembered.tracking_uri, remembered.run_id) == (fresh.tracking_uri, run_id)
        self._progress = remembered if remembered and same else fresh

    @property
    def run_id(self) -> str:
        return self._progress.run_id

    def send(self) -> None:
        """Send every whole line that the server lacks; a last line without its end waits for the next call."""
        path = self._folder / METRICS
        if not path.is_file():
            return
        sent = self._progress.step
        if not _ends_at(path, self._progress.offset, sent):
            # A resumed training cut the file and wrote steps anew: read it again, and pass over the steps sent.
            self._progress = replace(self._progress, offset=0)
        batch: list[Metric] = []
        position = self._progress
        for record, end in _records(path, self._progress.offset):
            metrics = _metrics(record) if record["step"] > sent else []
            if len(batch) + len(metrics) > BATCH:
                self._flush(batch, position)
                batch = []
            batch += metrics
            position = replace(position, offset=end, step=max(position.step, record["step"]))
        self._flush(batch, position)

    def _flush(self, batch: "list[Metric]", position: Progress) -> None:
        for start in range(0, len(batch), BATCH):
            self._client.log_batch(self.run_id, metrics=batch[start : start + BATCH])
        if position != self._progress or not (self._folder / "mirror.json").is_file():
            write_json(self._folder / "mirror.json", asdict(position))
        self._progress = position


def attach(client: "MlflowClient", folder: Path, experiment: str) -> Curves:
    """The curves of a run folder `pretrain-<fingerprint>`, in the run remembered, found by its tag, or created."""
    fingerprint = folder.name.removeprefix("pretrain-")
    remembered = _read_progress(folder)
    if (
        remembered
        and remembered.tracking_uri == redacted(tracking_uri())
        and still_there(client, remembered.run_id, fingerprint)
    ):
        return Curves(client, folder, remembered.run_id)
    experiment = experiment_id(client, experiment)
    with sole_creator(fingerprint):
        runs = find_runs(client, experiment, fingerprint)
        run = runs[0] if runs else create_run(client, experiment, fingerprint)
    return Curves(client, folder, run.info.run_id)


def _read_progress(folder: Path) -> Progress | None:
    try:
        return Progress(**read_json(folder / "mirror.json"))
    except (OSError, ValueError, TypeError):
        return None


def _records(path: Path, offset: int) -> Iterator[tuple[dict[str, Any], int]]:
    """Each whole line from `offset` on, with the offset behind it; a line that is no record is passed over."""
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
    """Whether the line of `step` ends at `offset`: then all before it is what was sent."""
    if offset == 0:
        return step < 0
    with path.open("rb") as file:
        start = max(0, offset - _LINE_BYTES)
        file.seek(start)
        before = file.read(offset - start)
    record = _parse(before.splitlines()[-1]) if len(before) == offset - start and before.endswith(b"\n") else None
    return record is not None and record["step"] == step
