"""`base.mean` and `base.std` may be `auto`: every use of them gets the numbers of the training images."""

from pathlib import Path
from typing import Any

import pytest

from franca import presets
from franca.data.store.prepared import MIN_STD, Store, read_channels
from franca.errors import FrancaError
from franca.files import read_json, write_json
from franca.params import Base, ChannelStatistics, Params, ResolvedBase, parse_params, resolve
from franca.params.render import to_yaml
from franca.pretrain.run_folder import fingerprint
from tests.conftest import MakeStore, MakeValues

MEASURED = ChannelStatistics((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
AUTO = {"base.mean": "auto", "base.std": "auto"}


def test_auto_becomes_the_statistics(tiny_values: MakeValues) -> None:
    params = parse_params(tiny_values(AUTO), "params.yaml")
    assert params.base.mean == params.base.std == "auto"
    resolved = resolve(params, lambda: MEASURED)
    assert (resolved.base.mean, resolved.base.std) == MEASURED
    numbers = {"base.mean": list(MEASURED.mean), "base.std": list(MEASURED.std)}
    same = parse_params(tiny_values(numbers), "params.yaml")
    assert resolved == resolve(same), "nothing else changes"
    assert fingerprint(resolved, "data") == fingerprint(resolve(same), "data"), "the run of those numbers resumes"


def test_one_of_them_alone(tiny_values: MakeValues) -> None:
    params = parse_params(tiny_values({"base.std": "auto"}), "params.yaml")
    resolved = resolve(params, lambda: MEASURED)
    assert (resolved.base.mean, resolved.base.std) == (params.base.mean, MEASURED.std)


def test_numbers_need_no_statistics() -> None:
    params = presets.load("overhead-cpu")

    def never() -> ChannelStatistics:
        raise AssertionError

    assert resolve(params, never).model_dump() == params.model_dump()


def test_auto_without_a_store(tiny_values: MakeValues) -> None:
    with pytest.raises(FrancaError, match=r"base\.mean, base\.std: auto needs the statistics of a prepared store"):
        resolve(parse_params(tiny_values(AUTO), "params.yaml"))


def test_the_resolved_type_takes_numbers_only(tiny_values: MakeValues) -> None:
    values = tiny_values(AUTO)["base"]
    Base.model_validate(values)
    with pytest.raises(ValueError, match="valid tuple"):
        ResolvedBase.model_validate(values)


@pytest.mark.parametrize(
    ("value", "line"),
    [
        ("atuo", 'base.mean: input should be a list of three numbers, or auto, not "atuo"'),
        (None, "base.mean: input should be a list of three numbers, or auto, not null"),
        ([0.5, 0.5], "base.mean.2: missing key"),
        ([0.5, 0.5, 2], "base.mean.2: input should be less than or equal to 1, not 2"),
    ],
)
def test_mistakes(value: Any, line: str, tiny_values: MakeValues) -> None:
    with pytest.raises(FrancaError) as caught:
        parse_params(tiny_values({"base.mean": value}), "params.yaml", "run `franca params update`")
    assert str(caught.value) == f"params.yaml: {line}"


def test_auto_is_written_and_read(tiny_values: MakeValues, tmp_path: Path) -> None:
    from franca.params import load_params

    params = parse_params(tiny_values(AUTO), "params.yaml")
    path = tmp_path / "params.yaml"
    path.write_text(to_yaml(params, "A comment."))
    assert "  mean: auto\n" in path.read_text()
    assert load_params(path) == params
    assert "auto" in str(Params.model_json_schema()["$defs"]["Base"]["properties"]["mean"])


def test_a_store_has_the_statistics_of_its_training_images(make_store: MakeStore, tmp_path: Path) -> None:
    store = Store(make_store(tmp_path / "prepared"))
    assert store.channels == ChannelStatistics((0.38,) * 3, (0.24,) * 3)


def test_a_constant_channel_can_be_divided_by() -> None:
    found = read_channels({"channels": {"mean": [0.1, 0.2, 0], "std": [0.2, 0.2, 0]}})
    assert found and found.std == (0.2, 0.2, MIN_STD)


@pytest.mark.parametrize("channels", [None, {}, {"mean": [0.1], "std": [0.1]}, {"mean": "auto", "std": "auto"}])
def test_a_store_without_statistics_is_one_line(
    channels: Any, make_store: MakeStore, tmp_path: Path, tiny_values: MakeValues
) -> None:
    folder = make_store(tmp_path / "prepared")
    manifest = read_json(folder / "manifest.json")
    write_json(folder / "manifest.json", manifest | {"channels": channels})
    store = Store(folder)
    line = f"{folder}/manifest.json: no channel statistics; run `dvc repro --force prepare`"
    with pytest.raises(FrancaError) as caught:
        resolve(parse_params(tiny_values(AUTO), "params.yaml"), lambda: store.channels)
    assert str(caught.value) == line
