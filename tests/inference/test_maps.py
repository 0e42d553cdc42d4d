from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from franca.cli import main
from franca.errors import FrancaError
from franca.evaluation.features import to_tensor
from franca.inference import maps
from franca.inference.contact_sheet import Tile, draw
from franca.models import FrancaModel, load_model, save_model
from tests.inference.conftest import Picture


def run(output: Path, model_folder: Path, *arguments: object) -> int:
    return main(["maps", *map(str, arguments), "-o", str(output), "--model", str(model_folder)])


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def test_a_picture_for_each_image_of_a_folder(
    photos: Path, tmp_path: Path, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "maps"
    (photos / "bad.png").touch()
    assert run(output, model_folder, photos, tmp_path / "gone.jpg", photos / "c.bmp") == 0
    drawn = sorted(path.relative_to(output).as_posix() for path in output.rglob("*.png"))
    assert drawn == ["a/b/y.JPG.png", "b/x.png.png", "c.bmp.png"]
    told, left_out = capsys.readouterr()
    assert told == f"{output}: 3 maps by {model_folder}\n"
    assert left_out.splitlines() == [
        f"skipped: {photos}/bad.png: empty file",
        f"skipped: {tmp_path}/gone.jpg: No such file or directory",
    ]
    first = {name: (output / name).read_bytes() for name in drawn}
    assert run(output, model_folder, photos) == 0
    assert {name: (output / name).read_bytes() for name in drawn} == first


def test_colors_are_shared_by_all_images_of_a_call(tmp_path: Path, model_folder: Path, picture: Picture) -> None:
    for name, seed in (("a/x.png", 0), ("b/x.png", 0), ("c/x.png", 1)):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(picture(seed))
    images = [tmp_path / f"{name}/x.png" for name in "abc"]
    assert run(tmp_path / "all", model_folder, *images) == 0
    assert run(tmp_path / "one", model_folder, images[0]) == 0
    same, twin, other = (pixels(tmp_path / f"all/{name}/x.png.png") for name in "abc")
    np.testing.assert_array_equal(same, twin)
    assert (same != other).any()
    alone = pixels(tmp_path / "one/x.png.png")
    # Of three columns the middle one is colored by what was seen together, the others stand for themselves.
    changed = (same != alone).any(axis=(0, 2))
    third = same.shape[1] // 3
    assert changed[third : 2 * third].any()
    assert not changed[: third - 30].any() and not changed[2 * third + 30 :].any()


def test_colors_of_many_images_are_fitted_on_some(
    tmp_path: Path, model_folder: Path, picture: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maps, "FITTED_IMAGES", 2)
    monkeypatch.setattr(maps, "FITTED_PATCHES", 10)
    (tmp_path / "many").mkdir()
    for seed in range(5):
        (tmp_path / f"many/{seed}.png").write_bytes(picture(seed))
    assert run(tmp_path / "maps", model_folder, tmp_path / "many", "--size", 32) == 0
    assert len(list((tmp_path / "maps").iterdir())) == 5


def test_what_is_seen_of_an_image(model_folder: Path, tmp_path: Path, picture: Picture) -> None:
    model = load_model(model_folder)
    (tmp_path / "wide.png").write_bytes(picture(0, (100, 42)))
    image = maps.open_image(tmp_path / "wide.png", 64, 8)
    assert image.size == (152, 64)
    seen = maps.observe_image(model, image, None)
    assert seen.patches.shape == (8, 19, 32) and seen.attention is not None and seen.attention.shape == (2, 8, 19)
    torch.testing.assert_close(seen.patches, model(to_tensor(image)[None]).patches[0])
    first = maps.observe_image(model, image, 0)
    assert not torch.allclose(first.patches, seen.patches)

    (tmp_path / "strip.png").write_bytes(picture(0, (4, 20_000)))
    with pytest.raises(FrancaError, match=r"strip.png: 64 x 320000 pixels are 320,000 patches, more than 65,536; "):
        maps.open_image(tmp_path / "strip.png", 64, 8)


def test_a_model_without_class_token(photos: Path, tmp_path: Path) -> None:
    model = FrancaModel("vit_wee_patch16_reg1_gap_256", 32, (0.5, 0.4, 0.3), (0.2, 0.2, 0.3))
    save_model(model, tmp_path / "timm")
    assert run(tmp_path / "maps", tmp_path / "timm", photos / "b/x.png") == 0
    picture = pixels(tmp_path / "maps/x.png.png")
    third = picture.shape[1] * 2 // 3 + 10
    assert (picture[-100:, third:] == 255).all() and (picture[80:130, third:] < 128).any(), "a line, and no map"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--block", "2"], "no such block: 2; the model has 2, 0 to 1"),
        (["--size", "20"], "size 20: not a multiple of the patch size; choose a multiple of 8"),
        (["--size", "0"], "size 0: not a multiple of the patch size; choose a multiple of 8"),
        (["--model", "models/none"], "models/none: no such model"),
    ],
)
def test_mistakes_are_one_line(
    photos: Path,
    tmp_path: Path,
    model_folder: Path,
    arguments: list[str],
    line: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # The last --model counts.
    assert main(["maps", str(photos), "-o", str(tmp_path / "maps"), "--model", str(model_folder), *arguments]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"franca: {line}") and told.count("\n") == 1
    assert not (tmp_path / "maps").exists()


def test_only_bad_images(tmp_path: Path, model_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.png").touch()
    assert run(tmp_path / "maps", model_folder, tmp_path / "bad.png") == 2
    told = capsys.readouterr().err
    assert (
        told == f"skipped: {tmp_path}/bad.png: empty file\nfranca: images: none can be drawn; see the reasons above\n"
    )
    assert not (tmp_path / "maps").exists()
    (tmp_path / "empty").mkdir()
    assert run(tmp_path / "maps", model_folder, tmp_path / "empty") == 2
    assert "empty: contains no image; files count by their suffix (" in capsys.readouterr().err


@pytest.mark.parametrize(("count", "columns"), [(1, 3), (3, 3), (4, 4), (6, 6), (12, 6), (16, 8), (24, 8)])
def test_rows_of_a_sheet_are_full(count: int, columns: int) -> None:
    tiles = [Tile(f"head {index}", np.eye(4)) for index in range(count)]
    figure = draw("title", "subtitle", [tiles], aspect=0.5)
    corners = {(round(axes.get_position().x0, 3), round(axes.get_position().y0, 3)) for axes in figure.axes}
    assert len(corners) == count
    assert len({x for x, _ in corners}) == min(count, columns)
    assert len({y for _, y in corners}) == -(-count // columns)
    for axes in figure.axes:
        box = axes.get_window_extent()
        assert abs(box.height / box.width - 0.5) < 0.01
        assert 0 <= axes.get_position().x0 < axes.get_position().x1 <= 1 and axes.get_position().y0 > 0


@pytest.mark.parametrize("size", [(2, 3000), (4000, 10), (1, 1)])
def test_the_sheet_of_a_strip_is_bounded(
    tmp_path: Path, model_folder: Path, picture: Picture, size: tuple[int, int]
) -> None:
    (tmp_path / "strip.png").write_bytes(picture(0, size))
    assert run(tmp_path / "maps", model_folder, tmp_path / "strip.png", "--size", 8) == 0
    with Image.open(tmp_path / "maps/strip.png.png") as sheet:
        assert sheet.width == 1350 and sheet.height <= 6000
        drawn = np.asarray(sheet.convert("RGB"))
    # Each of the three tiles of the first row shows something.
    for column in range(3):
        part = drawn[120:, 1350 * column // 3 + 30 : 1350 * (column + 1) // 3 - 30]
        assert (part < 250).any(axis=2).sum() > 1000


@pytest.mark.parametrize(
    ("heads", "aspect"),
    [*((1, aspect) for aspect in (1e-9, 0.01, 1 / 8, 1, 5, 400, 1e9)), (24, 1e-9), (24, 1 / 8), (24, 1e9)],
)
def test_a_sheet_is_bounded_and_says_so(heads: int, aspect: float) -> None:
    tiles = [Tile(f"head {index}", np.eye(4)) for index in range(heads)]
    figure = draw("title", "subtitle", [tiles[:3], tiles], aspect)
    assert figure.get_figheight() <= 40.01
    (box, *_) = (axes.get_window_extent() for axes in figure.axes)
    same = abs(box.height / box.width / aspect - 1) < 0.01
    assert same or figure.texts[1].get_text() == "not to scale; subtitle"
    assert same or not 1 / 8 <= aspect <= 1
    assert min(axes.get_position().y0 for axes in figure.axes) >= 0


def test_a_name_is_no_formula(tmp_path: Path, model_folder: Path, picture: Picture) -> None:
    name = "price $5 and \\frac{$ _^.png"
    (tmp_path / name).write_bytes(picture(0))
    assert run(tmp_path / "maps", model_folder, tmp_path / name) == 0
    assert [path.name for path in (tmp_path / "maps").iterdir()] == [f"{name}.png"]


def test_large_features_are_not_kept(
    photos: Path, tmp_path: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The maps are the same whether features are kept between fitting and drawing or computed again."""
    assert run(tmp_path / "kept", model_folder, photos) == 0
    monkeypatch.setattr(maps, "KEPT_PATCHES", 1)
    assert run(tmp_path / "again", model_folder, photos) == 0
    for path in (tmp_path / "kept").rglob("*.png"):
        assert path.read_bytes() == (tmp_path / "again" / path.relative_to(tmp_path / "kept")).read_bytes()
