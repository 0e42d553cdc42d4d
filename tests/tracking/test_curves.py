"""Lines of metrics.jsonl reach the server once each, whatever happens to file and server."""

import json
import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient

from franca.tracking.client import connect
from franca.tracking.curves import open_uploader
from franca.tracking.runs import FINGERPRINT
from tests.tracking.conftest import line, write_lines


@pytest.fixture
def folder(root: Path) -> Path:
    return root / "runs/pretrain-abc"


def sent(client: MlflowClient, run_id: str) -> list[tuple[int, float, int]]:
    history = client.get_metric_history(run_id, "train/loss")
    return sorted((metric.step, metric.value, metric.timestamp) for metric in history)


def expected(*steps: int) -> list[tuple[int, float, int]]:
    return [(step, 10.0 - step / 100, 1000500 + 1000 * step) for step in steps]


def test_lines_are_sent_once_with_step_and_time(folder: Path) -> None:
    client = connect()
    write_lines(folder, range(3))
    curves = open_uploader(client, folder, "franca")
    curves.send()
    curves.send()
    write_lines(folder, range(3, 5))
    again = open_uploader(client, folder, "franca")
    again.send()
    assert again.run_id == curves.run_id
    assert client.get_run(again.run_id).data.tags[FINGERPRINT] == "abc"
    assert sent(client, again.run_id) == expected(0, 1, 2, 3, 4)
    assert json.loads((folder / "mirror.json").read_text())["offset"] == (folder / "metrics.jsonl").stat().st_size


def test_more_than_one_batch(folder: Path) -> None:
    client = connect()
    write_lines(folder, range(1200))
    curves = open_uploader(client, folder, "franca")
    curves.send()
    assert len(sent(client, curves.run_id)) == 1200


def test_incomplete_line_is_sent_when_it_is_complete(folder: Path) -> None:
    client = connect()
    write_lines(folder, range(1))
    text = line(1)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(text[:20])
    curves = open_uploader(client, folder, "franca")
    curves.send()
    assert sent(client, curves.run_id) == expected(0)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(text[20:])
    curves.send()
    assert sent(client, curves.run_id) == expected(0, 1)


def test_line_that_is_not_a_record_is_skipped(folder: Path) -> None:
    client = connect()
    write_lines(folder, range(1))
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 7, "ti\n')
    write_lines(folder, range(1, 3))
    curves = open_uploader(client, folder, "franca")
    curves.send()
    assert sent(client, curves.run_id) == expected(0, 1, 2)


@pytest.mark.parametrize("ahead", [2, 4, 9], ids=["still shorter", "same length", "longer"])
def test_resumed_training_rewrites_its_last_steps(folder: Path, ahead: int) -> None:
    """The server already has the steps that a resumed trainer writes again after its checkpoint."""
    client = connect()
    write_lines(folder, range(6))
    curves = open_uploader(client, folder, "franca")
    curves.send()
    (folder / "metrics.jsonl").unlink()
    write_lines(folder, range(3))
    write_lines(folder, range(3, 3 + ahead), time=987654321.125)
    for again in (curves, open_uploader(client, folder, "franca")):
        again.send()
    write_lines(folder, range(3 + ahead, 13), time=987654321.125)
    curves.send()
    assert [step for step, _, _ in sent(client, curves.run_id)] == list(range(13))


def test_another_server_receives_everything(
    folder: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_lines(folder, range(3))
    first = open_uploader(connect(), folder, "franca")
    first.send()
    shutil.copy(empty_database, folder.parent / "other.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///runs/other.db")
    client = connect()
    second = open_uploader(client, folder, "franca")
    second.send()
    assert second.run_id != first.run_id
    assert sent(client, second.run_id) == expected(0, 1, 2)


def test_run_deleted_on_the_server_is_created_again(folder: Path) -> None:
    client = connect()
    write_lines(folder, range(3))
    first = open_uploader(client, folder, "franca")
    first.send()
    client.delete_run(first.run_id)
    second = open_uploader(client, folder, "franca")
    second.send()
    assert sent(client, second.run_id) == expected(0, 1, 2)


def test_without_mirror_json_the_run_is_found_by_tag_and_nothing_is_sent_twice(folder: Path) -> None:
    client = connect()
    write_lines(folder, range(3))
    first = open_uploader(client, folder, "franca")
    first.send()
    (folder / "mirror.json").write_text("{")
    second = open_uploader(client, folder, "franca")
    second.send()
    assert second.run_id == first.run_id
    assert sent(client, second.run_id) == expected(0, 1, 2)
