"""Study files: what they expand to, how cells are named, and what is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from franca.errors import FrancaError
from franca.study.grid import Cell, Study, expand, read_study

ROOT = Path(__file__).parents[2]

TREE: dict[str, Any] = {
    "title": "Which learning rate?",
    "description": "Two rates on two data sets.",
    "start": "overhead-cpu",
    "seeds": [0, 1],
    "compare": "rate",
    "reference": "low",
    "params": {"pretrain.epochs": 2},
    "axes": {
        "data": {
            "demo": {"prepare.source": "data/eurosat"},
            "own": {"prepare.source": "${photos}", "prepare.dense_source": None, "pretrain.dense_share": 0.0},
        },
        "rate": {"low": {"pretrain.optimizer.base_lr": 1e-5}, "high": {"pretrain.optimizer.base_lr": 1e-2}},
    },
}

Write = Callable[..., Study]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes and reads a study file, with changes of its keys."""

    def write(**changes: Any) -> Study:
        tree = {**TREE, **changes}
        path = tmp_path / "rates.yaml"
        YAML().dump({key: value for key, value in tree.items() if value is not None}, path)
        return read_study(path)

    return write


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "one.png").write_bytes(b"1")
    return folder


def cells_of(study: Study, photos: Path | None, **only: str) -> list[Cell]:
    return expand(study, ROOT, {"photos": str(photos)} if photos else {}, only)


def names(cells: list[Cell]) -> list[str]:
    return [cell.name("rates") for cell in cells]


def test_cells_are_all_combinations_with_each_seed(write: Write, photos: Path) -> None:
    cells = cells_of(write(), photos)
    assert [(cell.options["data"], cell.options["rate"], cell.seed) for cell in cells] == [
        (data, rate, seed) for data in ("demo", "own") for rate in ("low", "high") for seed in (0, 1)
    ]
    last = cells[-1].params
    assert last is not None
    assert (last.base.seed, last.pretrain.epochs, last.pretrain.optimizer.base_lr) == (1, 2.0, 1e-2)
    assert last.prepare.source == str(photos)
    assert last.register_.experiment == "study-rates"
    assert [name.rpartition("-")[0] for name in names(cells)][:3] == [
        "rates-demo-low-seed0",
        "rates-demo-low-seed1",
        "rates-demo-high-seed0",
    ]
    assert len(set(names(cells))) == 8


def test_a_cells_name_depends_on_its_own_content_alone(write: Write, photos: Path) -> None:
    before = names(cells_of(write(), photos))
    axes = {**TREE["axes"], "rate": {**TREE["axes"]["rate"], "middle": {"pretrain.optimizer.base_lr": 1e-3}}}
    more = names(cells_of(write(seeds=[2, 1, 0], axes=axes, title="Another", description=""), photos))
    assert set(before) < set(more)
    # Neither what cannot change a result nor the folder's place counts.
    same = {**TREE["params"], "runtime.checkpoint_steps": 7}
    moved = photos.rename(photos.with_name("elsewhere"))
    assert names(cells_of(write(params=same), moved)) == before
    assert not set(names(cells_of(write(params={"pretrain.epochs": 3}), moved))) & set(before)
    (moved / "two.png").write_bytes(b"2")
    after = names(cells_of(write(), moved))
    assert after[:4] == before[:4] and not set(after[4:]) & set(before)


def test_values_of_params_yaml_count_where_a_study_starts_from_it(write: Write, tmp_path: Path) -> None:
    study = write(start="params.yaml", axes={"rate": TREE["axes"]["rate"]})
    text = (ROOT / "params.yaml").read_text()
    found = []
    for changed in (text, text.replace("knn_k: 20", "knn_k: 5"), text.replace("log_steps: 25", "log_steps: 5")):
        (tmp_path / "params.yaml").write_text(changed)
        found.append(names(expand(study, tmp_path, {})))
    assert found[0] == found[2] != found[1]


def test_only_leaves_cells_out_and_their_variables_too(write: Write) -> None:
    cells = cells_of(write(), None, data="demo", rate="high")
    assert [cell.options for cell in cells] == 2 * [{"data": "demo", "rate": "high"}]


def test_cells_are_known_without_their_data(write: Write, photos: Path) -> None:
    """As a page is written from stored results alone."""
    study = write()
    known = expand(study, ROOT, None)
    assert all(cell.params is None and not cell.data_digest for cell in known)
    assert [cell.params_digest for cell in known] == [cell.params_digest for cell in cells_of(study, photos)]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"seeds": []}, r"rates\.yaml: seeds: none given; name at least one"),
        ({"seeds": None}, r"rates\.yaml: seeds: none given"),
        ({"seeds": ["a"]}, r"rates\.yaml: seeds\.0: .*valid integer"),
        ({"seeds": [1, 1]}, r"seeds: \[1, 1\] names one twice"),
        ({"seed": [1]}, r"unknown key seed; known here: axes, compare"),
        ({"compare": "rates"}, r"compare: no axis rates; known here: data, rate"),
        ({"reference": "none"}, r"reference: no option none of rate; known here: low, high"),
        ({"title": None}, r"rates\.yaml: title: missing key"),
        ({"axes": {"rate": {}}}, r"axes\.rate: no options"),
        ({"params": {"base.seed": 3}}, r"base\.seed is set; list the values under seeds"),
        ({"params": {"register.experiment": "x"}}, r"register\.experiment is set; .* experiment study-rates"),
        (
            {"axes": {**TREE["axes"], "more": {"x": {"prepare.source": "y"}}}},
            r"axes: data and more both set prepare\.source",
        ),
    ],
)
def test_a_wrong_study_file_is_one_line(changes: dict[str, Any], expected: str, write: Write) -> None:
    with pytest.raises(FrancaError, match=expected) as refused:
        write(**changes)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"start": "nothing"}, r"study rates: start: no preset nothing; known here: params\.yaml, eurosat"),
        ({"params": {"pretrain.epoch": 2}}, r"study rates: pretrain\.epoch: unknown parameter"),
        ({"params": {"pre.epoch": 2}}, r"study rates: pre\.epoch: unknown parameter"),
        ({"params": {"pretrain.epochs": -2}}, r"study rates: pretrain\.epochs: .*not -2"),
    ],
)
def test_wrong_parameters_are_one_line(changes: dict[str, Any], expected: str, write: Write, photos: Path) -> None:
    study = write(**changes)
    with pytest.raises(FrancaError, match=expected) as refused:
        cells_of(study, photos)
    assert "\n" not in str(refused.value)


def test_wrong_arguments_are_one_line(write: Write, photos: Path) -> None:
    study = write()
    for variables, only, expected in (
        ({}, {}, r"study rates: own, low: \$\{photos\} is not given; use --set photos=PATH"),
        ({"photos": "/no/such"}, {}, r"--set photos=/no/such: no such folder"),
        (
            {"photos": str(photos), "pictures": str(photos)},
            {},
            r"--set pictures: no such variable; known here: photos",
        ),
        ({"photos": str(photos)}, {"rates": "low"}, r"no axis rates; known here: data, rate"),
        ({"photos": str(photos)}, {"rate": "lowest"}, r"no option lowest of rate; known here: low, high"),
    ):
        with pytest.raises(FrancaError, match=expected):
            expand(study, ROOT, variables, only)


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(FrancaError, match=r"none\.yaml: no such file; give a study file"):
        read_study(tmp_path / "none.yaml")


@pytest.mark.parametrize("path", sorted((ROOT / "studies").glob("*.yaml")), ids=lambda path: path.name)
def test_the_projects_own_studies_are_valid(path: Path, photos: Path) -> None:
    study = read_study(path)
    variables = {"photos": str(photos)} if "${photos}" in path.read_text() else {}
    cells = expand(study, ROOT, variables)
    assert len(study.seeds) >= 3 and len(cells) == len({cell.name(study.name) for cell in cells})
