"""What the server answers: the vectors of `franca embed`, and one line for everything that it refuses."""

import io
import socket
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pyarrow import parquet
from starlette.testclient import TestClient

from franca.cli import main
from franca.inference.embed import embed
from franca.inference.image_folder import ImageFolder
from franca.inference.neighbors import read_index
from franca.models import load_model
from tests.serving.conftest import LIMITS, application, encoded, npy

ARRAY, TAR = {"Content-Type": "application/x-npy"}, {"Content-Type": "application/x-tar"}


def tar(files: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


def test_vectors_are_those_of_embed(client: TestClient, model_folder: Path, photos: Path, tmp_path: Path) -> None:
    (photos / "c.bmp").unlink()
    embed(load_model(model_folder), ImageFolder(photos), tmp_path / "index.parquet", "tiny")
    table = parquet.read_table(tmp_path / "index.parquet").to_pydict()
    expected = dict(zip(table["path"], table["embedding"], strict=True))
    for name in ("b/x.png", "a/b/y.JPG"):
        answer = client.post("/embed", content=(photos / name).read_bytes())
        assert answer.status_code == 200, answer.text
        np.testing.assert_allclose(answer.json()["embeddings"], [expected[name]], rtol=1e-4, atol=1e-5)
    answer = client.post("/embed", content=(photos / "a.tar").read_bytes(), headers=TAR)
    assert answer.json()["names"] == ["2.png", "1.png"]
    wanted = [expected["a.tar/2.png"], expected["a.tar/1.png"]]
    np.testing.assert_allclose(answer.json()["embeddings"], wanted, rtol=1e-4, atol=1e-5)


def test_arrays_in_and_out(client: TestClient, model_folder: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (7, 32, 32, 3), dtype=np.uint8)
    features = load_model(model_folder)(torch.from_numpy(images).permute(0, 3, 1, 2))
    accept = {**ARRAY, "Accept": "application/x-npy"}
    answer = client.post("/embed", content=npy(images), headers=accept)
    np.testing.assert_allclose(np.load(io.BytesIO(answer.content)), features.pooled, rtol=1e-4, atol=1e-5)
    answer = client.post("/patches", content=npy(images), headers=accept)
    found = np.load(io.BytesIO(answer.content))
    assert found.shape == (7, 4, 4, 32) and answer.headers["franca-digest"] == client.get("/version").json()["digest"]
    np.testing.assert_allclose(found, features.patches, rtol=1e-4, atol=1e-5)
    answer = client.post("/patches", content=npy(images[0]), headers=ARRAY)
    np.testing.assert_allclose(answer.json()["patches"], features.patches[:1], rtol=1e-4, atol=1e-5)


def test_neighbors(model_folder: Path, photos: Path, tmp_path: Path) -> None:
    model = load_model(model_folder)
    embed(model, ImageFolder(photos), tmp_path / "index.parquet", "tiny")
    index = read_index(tmp_path / "index.parquet")
    with TestClient(application(model_folder, index=index)) as client:
        answer = client.post("/neighbors?k=3", content=(photos / "b/x.png").read_bytes()).json()["neighbors"]
        assert len(answer) == 1 and len(answer[0]) == 3
        assert answer[0][0] == {"path": "b/x.png", "similarity": pytest.approx(1, abs=1e-5)}
        assert client.post("/neighbors?k=0", content=encoded()).status_code == 422
        index.digest = "another"
        assert "index is of another model" in client.post("/neighbors", content=encoded()).json()["detail"]


GOOD = np.zeros((1, 32, 32, 3), np.uint8)
HUGE = b"\x93NUMPY\x01\x00v\x00" + b"{'descr': '|u1', 'fortran_order': False, 'shape': (100000, 100000, 3), }".ljust(
    118
)
BAD: dict[str, tuple[bytes, dict[str, str], int, str]] = {
    "nothing": (b"", {}, 400, "body: empty; send an image"),
    "garbage": (b"garbage", {}, 415, "body: not a JPEG, PNG or WebP; convert it"),
    "another format": (encoded(format="BMP"), {}, 415, "not a JPEG, PNG or WebP"),
    "half a JPEG": (encoded((300, 300), "JPEG")[:800], {}, 422, "body: the image cannot be read: "),
    "half a header": (encoded()[:20], {}, 422, "body: the image cannot be read: "),
    "too many bytes": (bytes(LIMITS.body_bytes + 1), {}, 413, "body: longer than 200,000 bytes; send fewer"),
    "too many pixels": (encoded((1001, 100)), {}, 413, "body: 1001 x 100 pixels, more than 100,000; make it smaller"),
    "no array": (b"\x93NUMPY", ARRAY, 422, "body: not an array in NumPy's format npy"),
    "an array of objects": (npy(np.array([{}])), ARRAY, 422, "body: not an array in NumPy's format npy"),
    "a huge array": (HUGE, ARRAY, 422, "body: not an array in NumPy's format npy"),
    "fewer bytes": (npy(GOOD)[:-1], ARRAY, 422, "body: not an array in NumPy's format npy"),
    "floats": (npy(GOOD / 255), ARRAY, 422, "body: an array of float64 (1, 32, 32, 3); send uint8"),
    "gray": (npy(GOOD[..., 0]), ARRAY, 422, "body: an array of uint8 (1, 32, 32); send uint8"),
    "pixels": (npy(GOOD[0, 0]), ARRAY, 422, "body: an array of uint8 (32, 3); send uint8"),
    "no images": (npy(GOOD[:0]), ARRAY, 422, "body: no"),
    "no height": (npy(GOOD[:, :0]), ARRAY, 422, "body: "),
    "too many images": (
        npy(np.zeros((9, 8, 8, 3), np.uint8)),
        ARRAY,
        413,
        "body: 9 images, more than 8; send several",
    ),
    "no tar": (b"no tar at all", TAR, 422, "body: not an uncompressed tar"),
    "half a tar": (tar({"a.png": encoded((64, 64))})[:600], TAR, 422, "body: "),
    "a tar without images": (tar({"a.txt": b"x"}), TAR, 422, "body: no images"),
    "a bad image in a tar": (tar({"a.png": encoded(), "b.png": b"x"}), TAR, 415, "b.png: not a JPEG, PNG or WebP"),
    "many in a tar": (tar({f"{i}.png": encoded((8, 8)) for i in range(9)}), TAR, 413, "body: 9 images, more than 8"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_request_is_refused_in_one_line(client: TestClient, name: str) -> None:
    body, headers, status, reason = BAD[name]
    answer = client.post("/embed", content=body, headers=headers)
    assert answer.status_code == status, answer.text
    detail = answer.json()["detail"]
    assert reason in detail and "\n" not in detail
    assert client.post("/embed", content=encoded()).status_code == 200


def test_a_body_of_unknown_length_is_refused_at_the_limit(client: TestClient) -> None:
    sent = []

    def parts() -> Any:
        for _ in range(1000):
            sent.append(1)
            yield bytes(10_000)

    assert client.post("/embed", content=parts()).status_code == 413


def test_responses_have_limits_too(model_folder: Path) -> None:
    limits = LIMITS._replace(numbers=4 * 4 * 32 * 2, json_numbers=4 * 4 * 32)
    with TestClient(application(model_folder, limits)) as client:
        three, two = (npy(np.zeros((n, 32, 32, 3), np.uint8)) for n in (3, 2))
        assert client.post("/patches", content=three, headers=ARRAY).status_code == 413
        answer = client.post("/patches", content=two, headers=ARRAY)
        assert answer.status_code == 406 and "Accept: application/x-npy" in answer.json()["detail"]
        assert client.post("/patches", content=two, headers=ARRAY | {"Accept": "application/x-npy"}).status_code == 200


def test_requests_at_once_are_batched_and_keep_their_own_answers(client: TestClient) -> None:
    colors = [f"rgb({40 * i},{255 - 40 * i},{i})" for i in range(6)]
    alone = [client.post("/embed", content=encoded(color=color)).json()["embeddings"] for color in colors]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(lambda color: client.post("/embed", content=encoded(color=color)), 4 * colors))
    for answer, expected in zip(together, 4 * alone, strict=True):
        np.testing.assert_allclose(answer.json()["embeddings"], expected, rtol=1e-4, atol=1e-5)
    text = client.get("/metrics").text
    assert float(text.split("franca_batch_images_count ")[1].split()[0]) < 30


def test_more_requests_than_places_are_refused(model_folder: Path) -> None:
    with TestClient(application(model_folder, LIMITS._replace(requests=0))) as client:
        answer = client.post("/embed", content=encoded())
        assert answer.status_code == 503 and answer.headers["retry-after"] == "1"
        assert client.get("/health/ready").status_code == 503
        assert client.get("/health/live").status_code == 200


def test_version_health_and_metrics(client: TestClient, model_folder: Path) -> None:
    about = client.get("/version").json()
    assert about["model"] == str(model_folder) and about["version"] is None and len(about["digest"]) == 64
    assert (about["image_size"], about["patch_size"], about["dimensions"]) == (32, 8, 32)
    assert about["limits"] == {"bytes": 200_000, "pixels": 100_000, "images": 8}
    assert client.get("/health/ready").json() == {"status": "ready"}
    client.post("/embed", content=encoded())
    client.post("/embed", content=b"x")
    client.get("/no/such/page")
    text = client.get("/metrics").text
    for line in (
        'franca_requests_total{path="/embed",status="200"} 1.0',
        'franca_requests_total{path="/embed",status="415"} 1.0',
        'franca_requests_total{path="other",status="404"} 1.0',
        "franca_images_total 1.0",
        f'digest="{about["digest"]}"',
    ):
        assert line in text, line


def test_mistakes_at_the_start(model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for arguments, reason in (
            ([str(model_folder), "--port", port], f"franca: 127.0.0.1:{port}: cannot listen"),
            ([str(tmp_path / "none")], "none: no such model"),
            ([str(model_folder), "--index", "none.parquet"], "none.parquet: no such file; `franca embed` writes it"),
            ([str(model_folder), "--max-bytes", "0"], "--max-bytes 0: must be 1 or more"),
            ([str(model_folder), "--max-pixels", "90000000"], "--max-pixels 90000000: must be at most 89478485"),
        ):
            assert main(["serve", *arguments]) == 2
            assert reason in capsys.readouterr().err
