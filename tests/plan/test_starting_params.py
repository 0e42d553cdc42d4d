"""`franca init` writes parameters that fit a folder, this machine and a time limit."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from franca import presets
from franca.cli import main
from franca.data.ingest.sources import Source
from franca.data.store.index import SplitName
from franca.errors import FrancaError
from franca.params import Params, load_params
from franca.plan.folder_facts import FolderFacts, look_at
from franca.plan.starting_params import adapt, set_length, training_images
from franca.pretrain.schedules import make_schedules


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """120 images of 40 x 30 pixels, reddish, of two classes."""
    generator = np.random.default_rng(0)
    for i in range(120):
        pixels = generator.integers(0, 128, (30, 40, 3), dtype=np.uint8)
        pixels[..., 0] += 100
        path = tmp_path / "photos" / ("cat" if i % 2 else "dog") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return tmp_path / "photos"


def facts(
    image_count: int, short_side: int = 300, splits: tuple[SplitName, ...] = (), train_share: float = 1.0
) -> FolderFacts:
    return FolderFacts(image_count, frozenset(splits), train_share, short_side, [0.5] * 3, [0.2] * 3, 0.001, [])


def run_for(minutes: float, rate: float, found: FolderFacts) -> Params:
    return set_length(adapt(presets.values("photos-cpu"), "photos", None, found), found, rate, minutes)


def test_the_file_fits_the_folder(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "params.yaml"
    assert main(["--params", str(path), "init", str(photos), "--minutes", "2"]) == 0
    params = load_params(path)
    preset = presets.load("photos-cpu")
    assert params.prepare.source == str(photos) and params.prepare.dense_source is None
    assert params.base.mean[0] == pytest.approx((100 + 63.5) / 255, abs=0.01)
    assert params.base.std[0] == pytest.approx(128 / 12**0.5 / 255, abs=0.01)
    assert params.base.image_size == 32, "no less than 4 x 4 patches"
    assert params.pretrain.augment == preset.pretrain.augment
    assert params.pretrain.epochs > 1
    out = capsys.readouterr().out
    assert f"{photos}: about 120 images, short side 30 px" in out and "preset photos-cpu" in out


def test_epochs_fill_the_time() -> None:
    run = run_for(30, 50, facts(10_000))
    assert run.pretrain.epochs == pytest.approx(30 * 60 * 50 / 8000, rel=0.02), "val and test are held out"
    found = facts(10_000, splits=("train", "test"), train_share=0.75)
    assert run_for(30, 50, found).pretrain.epochs == pytest.approx(30 * 60 * 50 / (0.9 * 7500), rel=0.02)
    preset = presets.load("photos-cpu").pretrain
    share = run.pretrain.epochs / preset.epochs
    assert run.pretrain.optimizer.warmup_epochs == pytest.approx(preset.optimizer.warmup_epochs * share, rel=0.01)
    assert run.pretrain.knn_epochs == pytest.approx(preset.knn_epochs * share, rel=0.01)


def test_images_are_not_enlarged_beyond_whole_patches() -> None:
    small = adapt(presets.values("photos-1gpu"), "photos", None, facts(5000, short_side=100))
    assert small.base.image_size == 98 and small.pretrain.crops.local_size == 42
    large = adapt(presets.values("photos-1gpu"), "photos", None, facts(5000, short_side=500))
    assert large.base.image_size == 224 and large.pretrain.crops.local_size == 98


def test_every_kind_has_presets_for_a_cpu_and_a_gpu() -> None:
    assert {f"{kind}-{hardware}" for kind in presets.KINDS for hardware in ("cpu", "1gpu")} <= set(presets.names())
    found = facts(100_000)
    for name in ("photos-1gpu", "overhead-1gpu"):
        run = set_length(adapt(presets.values(name), "photos", None, found), found, 400, 600).pretrain
        steps = make_schedules(
            run, training_images(presets.load(name), found) // run.batch_size
        ).total  # an epoch is a pass over the images
        assert run.epoch_length is None and steps == pytest.approx(400 * 600 * 60 / run.batch_size, rel=0.02)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "nowhere: no such folder"),
        (["photos", "--minutes", "0"], "--minutes 0: not a length of time"),
        (["photos", "--minutes", "nan"], "--minutes nan: not a length of time"),
        (["photos", "--minutes", "0.001"], "time for"),
        (["few"], "fewer than a batch of"),
        (["broken"], "no image of a sample"),
    ],
)
def test_what_cannot_work_is_one_line_and_writes_nothing(
    photos: Path,
    tmp_path: Path,
    arguments: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "few").mkdir()
    Image.new("RGB", (30, 30)).save("few/1.png")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/1.png").write_bytes(b"rubbish")
    assert main(["init", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert not Path("params.yaml").exists()


def test_images_in_tars_are_estimated(make_tar_source: Path) -> None:
    found = look_at(Source(make_tar_source, "FOLDER"))
    assert 150 <= found.image_count <= 250, "200"
    assert not found.splits and found.train_share == 1


@pytest.fixture
def make_tar_source(tmp_path: Path, photos: Path) -> Path:
    import tarfile

    folder = tmp_path / "tars"
    folder.mkdir()
    for name in ("cat", "dog"):
        with tarfile.open(folder / f"{name}.tar", "w") as tar:
            for path in sorted((photos / name).iterdir()):
                tar.add(path, path.name)
            for path in sorted((photos / name).iterdir())[:40]:
                tar.add(path, f"again-{path.name}")
    return folder


def test_the_rate_is_that_of_the_slower_of_training_and_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    from franca.plan import timing

    params = presets.load("photos-cpu")
    monkeypatch.setattr(timing, "_step_seconds", lambda params: 0.32)
    monkeypatch.setattr(timing, "_crop_seconds", lambda params, samples: 0.001)
    batch = params.pretrain.batch_size
    assert timing.images_per_second(params, [], 0.0) == pytest.approx(batch / 0.32)
    monkeypatch.setattr(timing.os, "sched_getaffinity", lambda process: range(4))
    assert timing.images_per_second(params, [], 0.099) == pytest.approx(10)
    monkeypatch.setattr(timing.os, "sched_getaffinity", lambda process: range(1))
    assert timing.images_per_second(params, [], 0.089) == pytest.approx(10), "one core does both"


def test_the_least_time_that_is_named_is_enough() -> None:
    found = facts(10_000)
    with pytest.raises(FrancaError, match=r"give at least ([\d.]+)$") as caught:
        run_for(0.01, 50, found)
    assert run_for(float(str(caught.value).split()[-1]), 50, found).pretrain.epochs > 0
