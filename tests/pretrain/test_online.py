"""Online evaluation, its baselines, and the warning of a run that is no better than they are."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from franca.data.store.prepared import Store
from franca.files import read_json
from franca.params import Params
from franca.pretrain.network import Network
from franca.pretrain.online import AGREEMENT, EFFECTIVE_RANK, KNN, PIXELS, RANDOM, OnlineEvaluation, behind
from franca.pretrain.outputs import curve_steps, final_loss
from tests.conftest import MakeParams, MakeStore
from tests.pretrain.conftest import MakeProject, Project, rows
from tests.pretrain.test_stage import SHORT

CPU = torch.device("cpu")
SAID = "the model is no better than its baselines"
NOTHING = {"pretrain.optimizer.base_lr": 0.0, "pretrain.optimizer.min_lr": 0.0}


def network(params: Params) -> Network:
    torch.manual_seed(params.base.seed)
    return Network(params.base, params.pretrain).eval()


def test_online_knn_separates_the_classes_of_a_separable_set(
    tmp_path: Path, make_store: MakeStore, tiny_params: MakeParams
) -> None:
    params = tiny_params()
    store = Store(make_store(tmp_path / "prepared"))
    online, teacher = OnlineEvaluation(store, params, CPU, "fp32"), network(params)
    metrics = online.measure(teacher)
    assert online.measure(teacher) == metrics and metrics[KNN] > 60
    assert 1 < metrics[EFFECTIVE_RANK] < 32 and set(metrics) == {KNN, EFFECTIVE_RANK}
    baselines = online.baselines()
    assert baselines == {f"{name}{RANDOM}": value for name, value in metrics.items()} | {KNN + PIXELS: 100.0}
    assert online.baselines() == baselines


def test_without_labels_two_views_of_an_image_agree(
    tmp_path: Path, make_store: MakeStore, tiny_params: MakeParams
) -> None:
    params = tiny_params()
    store = Store(make_store(tmp_path / "unlabelled", val=20, labelled=False))
    online, teacher = OnlineEvaluation(store, params, CPU, "fp32"), network(params)
    metrics = online.measure(teacher)
    assert set(metrics) == {EFFECTIVE_RANK, AGREEMENT} and 0 <= metrics[AGREEMENT] <= 100
    baselines = online.baselines()
    assert baselines.pop(AGREEMENT + PIXELS) >= 0
    assert baselines == {f"{name}{RANDOM}": value for name, value in metrics.items()}


def test_a_single_class_counts_as_none(tmp_path: Path, make_store: MakeStore, tiny_params: MakeParams) -> None:
    folder = make_store(tmp_path / "prepared")
    labels = next((folder / "images").glob("label*.npy"))
    import numpy as np

    np.save(labels, np.zeros_like(np.load(labels)))
    online = OnlineEvaluation(Store(folder), tiny_params(), CPU, "fp32")
    assert not online.labeled and KNN not in online.measure(network(tiny_params()))


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        ({KNN: 50.0, KNN + RANDOM: 20.0, KNN + PIXELS: 44.0}, None),
        ({KNN: 21.0, KNN + RANDOM: 20.4, KNN + PIXELS: 44.1}, "k-NN on val 21.0, raw pixels 44.1"),
        ({KNN: 20.0, KNN + RANDOM: 20.0, KNN + PIXELS: 9.0}, "k-NN on val 20.0, random weights 20.0"),
        ({KNN: 50.0, KNN + RANDOM: 20.0, KNN + PIXELS: 44.0, EFFECTIVE_RANK: 2.0, EFFECTIVE_RANK + RANDOM: 9.0}, None),
        ({EFFECTIVE_RANK: 2.0, EFFECTIVE_RANK + RANDOM: 9.0, AGREEMENT: 60.0, AGREEMENT + RANDOM: 50.0}, None),
        (
            {EFFECTIVE_RANK: 9.0, EFFECTIVE_RANK + RANDOM: 2.0, AGREEMENT: 40.0, AGREEMENT + PIXELS: 50.0},
            "agreement of two views 40.0, raw pixels 50.0",
        ),
    ],
)
def test_when_a_run_is_behind_its_baselines(metrics: dict[str, float], said: str | None) -> None:
    sentence = behind(metrics, 10, 100)
    assert (said in sentence) if said and sentence else sentence is said is None
    assert behind(metrics, 9, 100) is None, "before a tenth of the steps nothing is said"


def test_a_run_that_learns_nothing_warns_once(
    make_project: MakeProject, pretrain: Callable[[Project], None], capsys: pytest.CaptureFixture[str]
) -> None:
    project = make_project(SHORT | NOTHING | {"pretrain.epochs": 3})
    pretrain(project)
    out = capsys.readouterr().out
    assert out.count(SAID) == 1
    (line,) = (line for line in out.splitlines() if SAID in line)
    assert line.startswith("at step 3 of 9 ") and "pretrain.optimizer.base_lr is 0" in line and "only 9 steps" in line
    knn, rank = rows(project, "knn"), rows(project, "rank")
    assert [row["step"] for row in knn] == ["3", "6", "9"]
    assert all(row["top1"] == row["random"] and row["pixels"] == "100" for row in knn)
    assert all(row["rank"] == row["random"] for row in rank) and len(rank) == 3
    assert rows(project, "agreement") == []
    final = read_json(project.folder / "results/pretrain/metrics.json")
    assert final["knn_top1"] == final["knn_top1_random"] and final["knn_top1_pixels"] == 100.0

    project.set({"runtime.keep_checkpoints": 3})
    for checkpoint in project.checkpoints()[1:]:
        checkpoint.rename(project.folder / checkpoint.name)
    first = project.outs()
    pretrain(project)
    again = capsys.readouterr().out
    assert "resuming from the checkpoint of step" in again and SAID not in again
    assert project.outs() == first


@pytest.mark.parametrize("labelled", [True, False])
def test_only_the_first_of_several_processes_warns(
    make_project: MakeProject, make_store: MakeStore, labelled: bool
) -> None:
    project = make_project(SHORT | NOTHING | {"pretrain.losses.koleo_images": 4})
    (project.folder / "prepared").unlink()
    make_store(project.folder / "prepared", labelled=labelled)
    runs = project.together(2)
    assert [run.end() for run in runs] == [0, 0], runs[0].err
    assert [run.out.count(SAID) for run in runs] == [1, 0]


def changed(changes: dict[str, Any]) -> dict[str, Any]:
    return {"pretrain.epochs": 2, "runtime.checkpoint_steps": 2} | changes


def test_what_the_log_shows_changes_no_output(make_project: MakeProject, pretrain: Callable[[Project], None]) -> None:
    outs = []
    for log_steps in (1, 4):
        project = make_project(changed({"runtime.log_steps": log_steps}), f"project{log_steps}")
        pretrain(project)
        outs.append(project.outs())
    assert outs[0] == outs[1]
    assert len(rows(project, "loss")) == 6


@pytest.mark.parametrize(("total", "steps"), [(1, 1), (36, 1), (399, 1), (400, 2), (100_000, 500)])
def test_curves_have_about_two_hundred_points(total: int, steps: int) -> None:
    assert curve_steps(total) == steps
    assert total // steps <= 400


def test_the_final_loss_is_a_mean_over_steps() -> None:
    assert final_loss([(1, 5.0)]) == 5.0
    assert final_loss([(10, 1.0), (20, 2.0), (25, 6.0)]) == pytest.approx((10 * 1 + 10 * 2 + 5 * 6) / 25)
    points = [(step, float(step)) for step in range(1, 101)]
    assert final_loss(points) == pytest.approx(sum(range(91, 101)) / 10)
