"""The whole stage on tiny sources: what is in the store, what is refused, and what a fault leaves behind."""

import ctypes
import hashlib
import json
import os
import re
import resource
import signal
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from franca.data.ingest.prepare import prepare
from franca.data.store.prepared import SPLITS, Store
from franca.errors import FrancaError
from franca.files import read_json, sha256_file
from franca.params import Params, Prepare, load_params
from franca.stages import prepare as stage

Build = Callable[..., Path]
Picture = Callable[..., bytes]
MakeParams = Callable[..., Prepare]
ROOT = Path(__file__).parents[2]


def two_classes(picture: Picture, count: int = 30) -> dict[str, bytes]:
    return {f"{name}/{i}.png": picture(1000 * k + i) for k, name in enumerate(("land", "sea")) for i in range(count)}


def contents(store: Store) -> dict[str, set[bytes]]:
    pack = store._images
    return {split: {hashlib.sha256(pack[int(row)]).digest() for row in store.images(split).rows} for split in SPLITS}


def test_every_layout_gives_the_same_splits(
    tmp_path: Path, picture: Picture, make_tree: Build, make_tar: Build, make_params: MakeParams
) -> None:
    files = two_classes(picture)
    make_tree(tmp_path / "folder", files)
    for name in ("land", "sea"):
        make_tar(tmp_path / f"tars/{name}.tar", {k: v for k, v in files.items() if k.startswith(name)})
    shard = {f"{i:09d}.{end}": content for i, (name, image) in enumerate(files.items())
             for end, content in (("png", image), ("cls", name.split("/")[0].encode()), ("json", b"{}"))}  # fmt: skip
    make_tar(tmp_path / "shards/00000.tar", shard)
    manifests = {}
    for layout in ("folder", "tars", "shards"):
        manifests[layout] = prepare(make_params(tmp_path / layout), tmp_path / f"{layout}.prepared")
    stores = [Store(tmp_path / f"{layout}.prepared") for layout in manifests]
    assert contents(stores[0]) == contents(stores[1]) == contents(stores[2])
    assert manifests["folder"]["counts"] == manifests["tars"]["counts"] == manifests["shards"]["counts"]
    assert manifests["folder"]["classes"] == ["land", "sea"]
    assert sum(counts["images"] for counts in manifests["folder"]["counts"].values()) == 60


def test_store_holds_the_images_and_labels(
    tmp_path: Path, picture: Picture, make_tree: Build, make_params: MakeParams
) -> None:
    files = {
        f"{split}/{name}/{i}.png": picture((number, k, i), (30, 10))
        for number, split in enumerate(SPLITS)
        for k, name in enumerate(("land", "sea"))
        for i in range(4)
    }
    make_tree(tmp_path / "source", files)
    manifest = prepare(make_params(tmp_path / "source"), tmp_path / "prepared")
    store = Store(tmp_path / "prepared")
    assert store.manifest == manifest
    for split in SPLITS:
        images = store.images(split)
        assert images.labels.tolist() == [0] * 4 + [1] * 4
        assert contents(store)[split] == {
            hashlib.sha256(content).digest() for name, content in files.items() if name.startswith(split)
        }
        assert images[0].size == (30, 10)
        assert manifest["counts"][split] == {"images": 8, "classes": {"land": 4, "sea": 4}}
    assert store.images("train")._pack.index.columns["height"].tolist() == [10] * 24
    assert manifest["sizes"]["width"] == {"min": 30, "median": 30, "max": 30}
    pixels = np.concatenate([np.asarray(image).reshape(-1, 3) for image in store.images("train")]) / 255
    assert manifest["channels"]["mean"] == pytest.approx(pixels.mean(axis=0), abs=1e-6)
    assert manifest["channels"]["std"] == pytest.approx(pixels.std(axis=0), abs=1e-6)
    assert manifest["files"] == {
        path.relative_to(tmp_path / "prepared").as_posix(): sha256_file(path)
        for path in (tmp_path / "prepared").rglob("*.*")
        if path.name != "manifest.json"
    }
    assert manifest["dense"] is None


def test_unlabelled_images(tmp_path: Path, picture: Picture, make_tree: Build, make_params: MakeParams) -> None:
    make_tree(tmp_path / "source", {f"{i}.png": picture(i) for i in range(20)})
    manifest = prepare(make_params(tmp_path / "source"), tmp_path / "prepared")
    assert manifest["classes"] == []
    assert set(Store(tmp_path / "prepared").images("train").labels.tolist()) == {-1}


def test_bytes_do_not_depend_on_threads_or_batches(
    tmp_path: Path, picture: Picture, make_tree: Build, make_params: MakeParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = two_classes(picture) | {"sea/bad.png": b"no picture"}
    params = make_params(make_tree(tmp_path / "source", files), max_refused=0.1)
    prepare(params, tmp_path / "one", threads=1)
    monkeypatch.setattr("franca.data.ingest.table._BATCH", 7)
    prepare(params, tmp_path / "two", threads=3)
    names = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file())
    assert len(names) == 11
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def claiming(side: int) -> bytes:
    """A PNG of a few bytes whose header says that it is `side` pixels high and wide."""
    header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    data = b"IDAT" + zlib.compress(b"")
    return (
        b"\x89PNG\r\n\x1a\n" + chunks + struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data))
    )


def bad_images(picture: Picture) -> dict[str, tuple[bytes, str]]:
    whole = picture(1, (64, 64), format="JPEG")
    return {
        "empty.jpg": (b"", "empty file"),
        "text.jpg": (b"this is no picture", "not an image"),
        "truncated.jpg": (whole[: len(whole) // 2], "truncated"),
        "truncated.png": (picture(3, (64, 64))[:-60], ""),
        "bomb.png": (claiming(10_000), "decompression bomb"),
        "bigger-bomb.png": (claiming(60_000), "decompression bomb"),
    }


def test_bad_images_are_refused_with_path_and_reason(
    tmp_path: Path, picture: Picture, make_tree: Build, make_params: MakeParams
) -> None:
    bad = bad_images(picture)
    files = {f"sea/{name}": content for name, (content, _) in bad.items()} | two_classes(picture, 10)
    source = make_tree(tmp_path / "source", files)
    manifest = prepare(make_params(source, max_refused=0.25), tmp_path / "prepared")
    assert manifest["refused"] == len(bad)
    refused = {item["path"]: item["reason"] for item in read_json(tmp_path / "prepared/refused.json")}
    assert refused.keys() == {f"sea/{name}" for name in bad}
    for name, (_, reason) in bad.items():
        assert reason in refused[f"sea/{name}"]
        assert " at 0x" not in refused[f"sea/{name}"]
    assert sum(counts["images"] for counts in manifest["counts"].values()) == 20

    with pytest.raises(FrancaError, match=r"6 of 26 images refused, prepare.max_refused 0.2 allows 5") as caught:
        prepare(make_params(source, max_refused=0.2), tmp_path / "again")
    assert "sea/bigger-bomb.png: " in str(caught.value)
    assert "and 3 more" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "again/manifest.json").exists()


def test_copies_never_straddle(tmp_path: Path, picture: Picture, make_tree: Build, make_params: MakeParams) -> None:
    """Each picture three times: as it is, byte by byte again, and as a JPEG."""
    files: dict[str, bytes] = {}
    for i in range(60):
        original = picture(i, (160, 140))
        files |= {f"{i}.png": original, f"x{i}.png": original}
        files[f"y{i}.jpg"] = picture(i, (160, 140), format="JPEG", quality=85)
    manifest = prepare(make_params(make_tree(tmp_path / "source", files)), tmp_path / "prepared")
    groups = read_json(tmp_path / "prepared/duplicates.json")["groups"]
    assert sorted(map(sorted, groups)) == sorted([f"{i}.png", f"x{i}.png", f"y{i}.jpg"] for i in range(60))
    assert manifest["duplicates"] == {"bits": 2, "images": 180, "largest": 3, "groups": 60, "dropped": 0}
    where = contents(Store(tmp_path / "prepared"))
    for i in range(60):
        copies = {hashlib.sha256(files[name]).digest() for name in (f"{i}.png", f"y{i}.jpg")}
        assert sum(1 for split in SPLITS if copies & where[split]) == 1
    assert all(counts["images"] % 3 == 0 for counts in manifest["counts"].values())


def test_train_copies_of_given_test_images_are_dropped_and_listed(
    tmp_path: Path, picture: Picture, make_tree: Build, make_params: MakeParams
) -> None:
    files = {f"train/{i}.png": picture(i, (160, 140)) for i in range(20)}
    files |= {"test/a.png": picture(3, (160, 140)), "test/b.jpg": picture(7, (160, 140), format="JPEG")}
    manifest = prepare(make_params(make_tree(tmp_path / "source", files)), tmp_path / "prepared")
    assert manifest["duplicates"]["dropped"] == 2
    assert read_json(tmp_path / "prepared/duplicates.json")["dropped"] == [
        {"path": "train/3.png", "same_as": "test/a.png"},
        {"path": "train/7.png", "same_as": "test/b.jpg"},
    ]
    assert manifest["counts"]["test"]["images"] == 2
    assert manifest["counts"]["train"]["images"] + manifest["counts"]["val"]["images"] == 18


def test_class_without_train_images_is_refused(
    tmp_path: Path, picture: Picture, make_tree: Build, make_params: MakeParams
) -> None:
    files = {f"train/{'sea' if i % 2 else 'land'}/{i}.png": picture(i) for i in range(10)}
    source = make_tree(tmp_path / "source", files | {"test/sea/1.png": picture(90), "test/see/1.png": picture(91)})
    manifest = prepare(make_params(source, max_refused=0.1), tmp_path / "prepared")
    reason = "class see has too few images to split: none is left for train"
    assert read_json(tmp_path / "prepared/refused.json") == [{"path": "test/see/1.png", "reason": reason}]
    assert manifest["classes"] == ["land", "sea"]
    with pytest.raises(FrancaError, match=rf"1 of 12 images refused.*test/see/1.png: {reason}"):
        prepare(make_params(source), tmp_path / "again")


def test_the_only_image_of_a_class_stays_in_train(
    tmp_path: Path, picture: Picture, make_tree: Build, make_params: MakeParams
) -> None:
    files = {f"class{i}/{j}.png": picture((7, i, j)) for i in range(30) for j in range(1 + i % 3)}
    manifest = prepare(make_params(make_tree(tmp_path / "source", files)), tmp_path / "prepared")
    assert manifest["refused"] == 0
    counts = {split: manifest["counts"][split] for split in SPLITS}
    assert sum(part["images"] for part in counts.values()) == len(files)
    assert min(counts["train"]["classes"].values()) == 1
    assert counts["val"]["images"] and counts["test"]["images"]


@pytest.mark.parametrize("names", [["sea/{}.png"], ["train/sea/{}.png", "test/sea/t{}.png"], ["my/data/sea/{}.png"]])
def test_one_class_counts_as_none(
    tmp_path: Path,
    picture: Picture,
    make_tree: Build,
    make_params: MakeParams,
    capsys: pytest.CaptureFixture[str],
    names: list[str],
) -> None:
    files = {name.format(i): picture((k, i)) for k, name in enumerate(names) for i in range(8)}
    manifest = prepare(make_params(make_tree(tmp_path / "source", files)), tmp_path / "prepared")
    assert manifest["classes"] == []
    assert set(Store(tmp_path / "prepared").images("train").labels.tolist()) == {-1}
    assert "images are treated as unlabelled, so k-NN and the linear probe are skipped" in capsys.readouterr().err


def test_all_of_one_label_counts_as_none(
    tmp_path: Path, picture: Picture, make_tar: Build, make_params: MakeParams, capsys: pytest.CaptureFixture[str]
) -> None:
    members = {f"{i}.{end}": content for i in range(8) for end, content in (("png", picture(i)), ("cls", b"cat\x1b"))}
    make_tar(tmp_path / "source/00000.tar", members)
    assert prepare(make_params(tmp_path / "source"), tmp_path / "prepared")["classes"] == []
    assert r"source: only one class (cat\x1b); images are treated as unlabelled" in capsys.readouterr().err


def test_names_and_classes_reach_the_store_exactly(
    tmp_path: Path, picture: Picture, make_tree: Build, make_params: MakeParams
) -> None:
    classes = ["a\u00a0b", "line\nbreak", r"line\nbreak", os.fsdecode(b"caf\xe9")]
    files = {f"{name}/\u202f{i}.png": picture((k, i)) for k, name in enumerate(classes) for i in range(5)}
    source = make_tree(tmp_path / "so\u3000urce", files | {f"{classes[3]}/bad.png": b""})
    manifest = prepare(make_params(source, max_refused=0.1), tmp_path / "prepared")
    assert manifest["classes"] == sorted([*classes[:3], "//caf%E9"])
    assert manifest["source"]["path"] == str(source)
    assert read_json(tmp_path / "prepared/refused.json") == [{"path": "//caf%E9/bad.png", "reason": "empty file"}]


def test_what_is_no_file_counts_as_refused(
    tmp_path: Path, picture: Picture, make_tree: Build, make_params: MakeParams
) -> None:
    source = make_tree(tmp_path / "source", two_classes(picture, 10) | {"@eaDir/x.png": b"", "lost+found/y.png": b""})
    (source / "sea/gone.png").symlink_to("nowhere.png")
    os.mkfifo(source / "sea/pipe.png")
    manifest = prepare(make_params(source, max_refused=1.0), tmp_path / "prepared")
    assert manifest["classes"] == ["land", "sea"]
    assert read_json(tmp_path / "prepared/refused.json") == [
        {"path": "sea/gone.png", "reason": "No such file or directory"},
        {"path": "sea/pipe.png", "reason": "not a regular file"},
    ]
    with pytest.raises(
        FrancaError, match=r"2 of 22 images refused.*\(sea/gone.png: No such file or directory; sea/pi"
    ):
        prepare(make_params(source), tmp_path / "again")


def test_too_few_images_to_split(tmp_path: Path, picture: Picture, make_tree: Build, make_params: MakeParams) -> None:
    source = make_tree(tmp_path / "source", {"1.png": picture(1), "2.png": picture(1), "3.png": picture(2)})
    with pytest.raises(FrancaError, match="no image for test: too few different images to split"):
        prepare(make_params(source), tmp_path / "prepared")


def test_tars_without_an_image(tmp_path: Path, make_tar: Build, make_params: MakeParams) -> None:
    make_tar(tmp_path / "source/all.tar", {"a.tar": b"", "b.tar": b""})
    with pytest.raises(FrancaError, match=r"no image in its tars \(2 .tar found\)"):
        prepare(make_params(tmp_path / "source"), tmp_path / "prepared")


@pytest.fixture
def project(
    tmp_path: Path, picture: Picture, make_tree: Build, make_params: MakeParams, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Params]:
    """A project folder, as the current one, with a source; signals stay pytest's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(stage, "listen_for_stop", lambda: False)
    make_tree(tmp_path / "source", two_classes(picture))
    params = load_params(ROOT / "params.yaml")
    yield params.model_copy(update={"prepare": make_params(Path("source"))})


def test_run_writes_the_store_and_its_metrics(project: Params, capsys: pytest.CaptureFixture[str]) -> None:
    stage.run(project)
    metrics = json.loads(Path("results/prepare/metrics.json").read_text())
    assert metrics["images"]["train"] + metrics["images"]["val"] + metrics["images"]["test"] == 60
    assert metrics["images"]["classes"] == 2
    assert sorted(path.name for path in Path().iterdir()) == ["prepared", "results", "source"]
    told = capsys.readouterr().out
    assert "2 classes, 0 refused" in told and "left alone" not in told
    digest = Store(Path("prepared")).digest
    stage.run(project)
    assert Store(Path("prepared")).digest == digest


def test_files_left_alone_are_counted_on_the_screen(
    project: Params, make_tree: Build, capsys: pytest.CaptureFixture[str]
) -> None:
    make_tree(Path("source"), {"sea/1.xcf": b"", "sea/2.xcf": b"", "notes": b"", "a.tar.gz": b""})
    stage.run(project)
    assert "source: left alone 2 .xcf, 1 .gz, 1 without suffix\n" in capsys.readouterr().out


def test_a_store_elsewhere_behind_a_link(project: Params) -> None:
    Path("disk").mkdir()
    Path("prepared").symlink_to("disk/store")
    for _ in range(2):
        stage.run(project)
        assert Path("prepared").is_symlink() and len(Store(Path("prepared")).images("train")) > 0
        assert [path.name for path in Path("disk").iterdir()] == ["store"]


def fail(project: Params, said: str) -> None:
    """The stage fails in one line, and the store of before stands as it stood."""
    digest = Store(Path("prepared")).digest
    with pytest.raises(FrancaError, match=said) as caught:
        stage.run(project)
    assert "\n" not in str(caught.value)
    assert Store(Path("prepared")).digest == digest
    assert sorted(path.name for path in Path().iterdir()) == ["prepared", "results", "source"]


def test_a_fault_leaves_the_old_store_alone(project: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.run(project)
    Path("source/sea/bad.png").write_bytes(b"bad")
    fail(project, "1 of 61 images refused")
    Path("source/sea/bad.png").unlink()
    Path("source/sea/gone.png").symlink_to("nowhere.png")
    fail(project, "1 of 61 images refused, .*sea/gone.png: No such file or directory")
    Path("source/sea/gone.png").unlink()
    monkeypatch.setattr(stage, "listen_for_stop", lambda: True)
    fail(project, "stopped while preparing")


CHILD = """
import os, signal, sys
from pathlib import Path
from franca.stages import prepare as stage
from franca.errors import FrancaError
from franca.params import load_params

if sys.argv[1] == "killed":
    stage.listen_for_stop = lambda: KilledWhenAsked()

class KilledWhenAsked:
    def __bool__(self):
        os.kill(os.getpid(), signal.SIGKILL)

params = load_params(Path(sys.argv[2]))
source = params.prepare.model_copy(update={"source": "source", "dense_source": None})
try:
    stage.run(params.model_copy(update={"prepare": source}))
except FrancaError as error:
    held = [os.readlink(file) for file in Path("/proc/self/fd").iterdir() if file.exists()]
    print(error, *(name for name in held if "prepared" in name))
    raise SystemExit(2)
"""


def run_child(what: str, before: Callable[[], Any] | None = None) -> subprocess.CompletedProcess[str]:
    """The stage in a process of its own, in the current folder; `before` runs in it first."""
    command = [sys.executable, "-c", CHILD, what, str(ROOT / "params.yaml")]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, preexec_fn=before, env=environment, capture_output=True, text=True, check=False)


def drop_root_override() -> None:
    """Make root obey permission bits: take CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH from what exec may grant."""
    for capability in (1, 2):
        ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)


@pytest.mark.parametrize(
    ("locked", "said"),
    [
        ("source/sea/3.png", "source: 1 of 60 images refused, .*sea/3.png: Permission denied"),
        ("source/sea", "source/sea: permission denied; make it readable"),
    ],
)
def test_permission_denied(project: Params, locked: str, said: str) -> None:
    Path(locked).chmod(0)
    done = run_child("denied", drop_root_override)
    Path(locked).chmod(0o755)
    assert (done.returncode, done.stderr) == (2, "")
    assert re.match(said, done.stdout)
    assert done.stdout.count("\n") == 1
    assert not Path("prepared").exists()


def test_disk_full(project: Params) -> None:
    stage.run(project)
    digest = Store(Path("prepared")).digest
    done = run_child("full", lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000)))
    assert (done.returncode, done.stderr) == (2, "")
    assert done.stdout == "prepared: File too large; make room and run the stage again\n"
    assert Store(Path("prepared")).digest == digest
    assert not Path("prepared.partial").exists()


def test_killed_in_the_middle(project: Params) -> None:
    stage.run(project)
    digest = Store(Path("prepared")).digest
    assert run_child("killed").returncode == -signal.SIGKILL
    assert Store(Path("prepared")).digest == digest
    with pytest.raises(FrancaError, match="no such file"):
        Store(Path("prepared.partial"))
    stage.run(project)
    assert Store(Path("prepared")).digest == digest
    assert not Path("prepared.partial").exists()
