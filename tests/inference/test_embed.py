import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet

from franca.cli import main
from franca.data.store.images.decode import decode
from franca.data.store.transform import resize_and_crop
from franca.evaluation.features import to_tensor
from franca.inference import embed
from franca.inference.image_folder import ImageFolder
from franca.models import load_model
from tests.conftest import MakeTar
from tests.inference.conftest import Picture
from tests.inference.test_image_folder import NAMES


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "out/embeddings.parquet"


def run(folder: Path, output: Path, model_folder: Path, *options: str) -> int:
    """`franca embed`, with the signals of before put back."""
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    try:
        return main(["embed", str(folder), "-o", str(output), "--model", str(model_folder), *options])
    finally:
        signal.signal(signal.SIGINT, before[0])
        signal.signal(signal.SIGTERM, before[1])


def vectors(table: pa.Table) -> np.ndarray:
    return np.array(table["embedding"].to_pylist(), dtype=np.float32)


def test_a_row_an_image_as_the_model_itself_says(
    photos: Path, output: Path, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(photos, output, model_folder) == 0
    told = f"{output}: 5 embeddings of 32 dimensions by {model_folder}\n{photos}: left alone 1 .json, 1 .txt\n"
    assert capsys.readouterr() == (told, "")
    assert [path.name for path in output.parent.iterdir()] == [output.name]
    table = parquet.read_table(output)
    assert table.schema.field("path").type == pa.string()
    assert table.schema.field("embedding").type == pa.list_(pa.float32(), 32)
    assert table["path"].to_pylist() == NAMES
    model = load_model(model_folder)
    assert table.schema.metadata == {
        b"franca.model": str(model_folder).encode(),
        b"franca.model_digest": model.digest.encode(),
        b"franca.source": str(photos).encode(),
        b"franca.image_size": b"32",
    }
    for name, vector in zip(NAMES[2:], vectors(table)[2:], strict=True):
        image = resize_and_crop(decode((photos / name).read_bytes()), 32)
        np.testing.assert_allclose(vector, model(to_tensor(image)[None]).pooled[0], atol=1e-5)


def test_batches_workers_and_row_groups_change_nothing(
    photos: Path, output: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(model_folder)
    assert embed.embed(model, ImageFolder(photos), output, "here") == (5, [])
    whole = parquet.read_table(output)
    monkeypatch.setattr(embed, "GROUP_BYTES", 2 * 4 * 8)
    assert run(photos, output, model_folder, "--batch-size", "1", "--workers", "3", "--dim", "8") == 0
    assert [parquet.ParquetFile(output).metadata.row_group(i).num_rows for i in range(3)] == [2, 2, 1]
    parts = parquet.read_table(output)
    assert parts["path"] == whole["path"]
    np.testing.assert_allclose(vectors(parts), vectors(whole)[:, :8], atol=1e-5)


def test_bad_images_are_listed_and_left_out(
    photos: Path,
    output: Path,
    model_folder: Path,
    picture: Picture,
    make_tar: MakeTar,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (photos / "empty.png").touch()
    (photos / "half.jpg").write_bytes(picture(9, (400, 400), "JPEG")[:2000])
    (photos / "text.gif").write_text("hello")
    (photos / "gone.png").symlink_to("nowhere")
    os.mkfifo(photos / "pipe.png")
    make_tar(photos / "d.tar", {"../up.png": picture(5), "ok.png": picture(6)})
    cut = make_tar(photos / "e.tar", {"lost.png": picture(7)})
    cut.write_bytes(cut.read_bytes()[:700])
    assert run(photos, output, model_folder) == 0
    assert parquet.read_table(output, columns=["path"])["path"].to_pylist() == [*NAMES, "d.tar/ok.png"]
    listed = embed.refused_path(output)
    assert listed.name == "embeddings.refused.csv"
    with listed.open(newline="") as file:
        rows = list(csv.reader(file))
    assert [row[0] for row in rows] == [
        "path",
        "d.tar/../up.png",
        "e.tar",
        "empty.png",
        "gone.png",
        "half.jpg",
        "pipe.png",
        "text.gif",
    ]
    reasons = dict(rows)
    assert reasons["empty.png"] == "empty file"
    assert reasons["gone.png"] == "No such file or directory"
    assert reasons["pipe.png"] == "not a regular file"
    assert reasons["text.gif"].startswith("not an image of a known format (JPEG, PNG, ")
    assert reasons["e.tar"].startswith("damaged tar (")
    assert "\n" not in "".join(reasons.values())
    told = capsys.readouterr().err
    assert told.startswith(f"{listed}: left out 7 of 13 images: d.tar/../up.png: ") and told.endswith("; and 4 more\n")

    assert run(photos / "b", output, model_folder) == 0
    assert not listed.exists(), "the list goes with the file that it belongs to"


def test_paths_are_exact(
    tmp_path: Path, output: Path, model_folder: Path, picture: Picture, make_tar: MakeTar
) -> None:
    names = [
        "Screenshot 10.15.30\u202fAM.png",
        "a\u00a0b\u3000.png",
        "line\nbreak.png",
        r"line\nbreak.png",
        "photo",
        "so\u00adft👩‍👩‍👧.png",
    ]
    folder = tmp_path / "so\u202furce"
    folder.mkdir()
    for seed, name in enumerate([*names, os.fsdecode(b"caf\xe9.png")]):
        (folder / name).write_bytes(picture(seed))
    (folder / "bad\n.png").touch()
    (folder / os.fsdecode(b"bad\xe9.png")).touch()
    make_tar(folder / "z.tar", [("x\u00a0y", picture(8)), ("1.png", b"old"), ("1.png", picture(9))])
    os.mkfifo(folder / "pipe.tar")
    assert run(folder, output, model_folder) == 0
    table = parquet.read_table(output)
    found = table["path"].to_pylist()
    assert sorted(found) == sorted([*names, "//caf%E9.png", "z.tar/x\u00a0y", "z.tar/1.png"])
    assert table.schema.metadata[b"franca.source"] == str(folder).encode()
    with embed.refused_path(output).open(newline="") as file:
        assert sorted(row[0] for row in csv.reader(file)) == [
            "//bad%E9.png",
            "bad\n.png",
            "path",
            "pipe.tar",
            "z.tar/1.png",
        ]


def test_images_of_more_pixels_than_is_safe_are_left_out(
    photos: Path, output: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 2000)
    assert run(photos, output, model_folder) == 0
    with embed.refused_path(output).open(newline="") as file:
        assert "c.bmp" in dict(csv.reader(file))


def test_where_no_image_can_be_read_nothing_changes(
    tmp_path: Path, output: Path, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/1.png").touch()
    output.parent.mkdir()
    output.write_text("before")
    assert run(tmp_path / "bad", output, model_folder) == 2
    expected = f"franca: {tmp_path}/bad: none of its 1 images can be read: 1.png: empty file\n"
    assert capsys.readouterr() == ("", expected)
    assert output.read_text() == "before" and len(list(output.parent.iterdir())) == 1


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            ["-o", "embeddings.npy"],
            "embeddings.npy: embeddings go into a Parquet file; name one that ends in .parquet",
        ),
        (["--dim", "33"], "--dim 33: the embedding of {model} has 1 to 32 dimensions (nested: 2, 4, 8, 16, 32)"),
        (["--dim", "0"], "--dim 0: the embedding of {model} has 1 to 32 dimensions (nested: 2, 4, 8, 16, 32)"),
        (["--batch-size", "0"], "--batch-size 0: must be 1 or more"),
        (["--workers", "-1"], "--workers -1: must be 1 or more"),
        (["--model", "models/none"], "models/none: no such model"),
    ],
)
def test_mistakes_are_one_line(
    photos: Path,
    output: Path,
    model_folder: Path,
    options: list[str],
    line: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(photos, output, model_folder, *options) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"franca: {line.format(model=model_folder)}") and told.count("\n") == 1
    assert not output.exists()


def test_a_gpu_that_is_not_there(
    photos: Path,
    output: Path,
    model_folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert run(photos, output, model_folder, "--device", "cuda") == 2
    assert "--device: 'cuda' is asked for, but torch sees no GPU" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_kill_leaves_the_file_of_before(
    number: signal.Signals, tmp_path: Path, output: Path, model_folder: Path, picture: Picture
) -> None:
    (tmp_path / "many").mkdir()
    (tmp_path / "many/0.png").write_bytes(picture(0))
    for index in range(1, 10_000):
        os.link(tmp_path / "many/0.png", tmp_path / f"many/{index}.png")
    output.parent.mkdir()
    output.write_text("before")
    command = [sys.executable, "-m", "franca", "embed", str(tmp_path / "many"), "-o", str(output)]
    command += ["--model", str(model_folder), "--batch-size", "1", "--workers", "1"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 60
    while len(os.listdir(output.parent)) == 1:
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.02)
    process.send_signal(number)
    told = process.communicate(timeout=30)[1]
    assert output.read_text() == "before"
    if number == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
        assert all(path.name.startswith(".") for path in output.parent.iterdir() if path != output)
    else:
        assert process.returncode == 75
        assert told == (
            "franca: stopped before all images were embedded; nothing was written; run the command again\n"
        )
        assert [path.name for path in output.parent.iterdir()] == [output.name]
