"""Schedules, the meter, collapse warnings and the run folder."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from franca.losses.cross_entropy import RowStatistics
from franca.losses.ibot import PATCHES, patch_count
from franca.losses.term import Metric, level_metrics
from franca.models.heads import Level
from franca.params import ResolvedParams
from franca.pretrain.monitor import COLLAPSED_SHARE, AverageMeter, collapse_warning
from franca.pretrain.network import Network, Outputs, update_teacher
from franca.pretrain.objective import Assigner, StudentLoss, student_loss
from franca.pretrain.parallel import Ranks
from franca.pretrain.run_folder import RunFolder, fingerprint
from franca.pretrain.schedules import cosine, linear, make_schedules
from tests.conftest import MakeParams

LEVELS = (1, 2)


def test_cosine_after_a_warm_up() -> None:
    values = cosine(1.0, 0.2, total=12, warmup=4, start=0.1)
    np.testing.assert_allclose(values[:4], [0.1, 0.4, 0.7, 1.0])
    assert values[4] == 1.0 and values[8] == pytest.approx(0.6)
    assert (np.diff(values[4:]) < 0).all() and values[-1] > 0.2


def test_linear_then_constant() -> None:
    assert linear(0.0, 1.0, total=5, warmup=3).tolist() == [0.0, 0.5, 1.0, 1.0, 1.0]


@pytest.mark.parametrize(("epochs", "warmup", "total"), [(2, 0, 20), (0.25, 0.25, 2), (0.01, 0, 1), (1.5, 1.5, 15)])
def test_runs_of_any_length(tiny_params: MakeParams, epochs: float, warmup: float, total: int) -> None:
    params = tiny_params(
        {
            "pretrain.epochs": epochs,
            "pretrain.optimizer.warmup_epochs": warmup,
            "pretrain.losses.teacher_warmup_epochs": warmup,
        }
    ).pretrain
    schedules = make_schedules(params, epoch_length=10)
    assert [len(schedule) for schedule in schedules] == [total] * 5
    assert all(np.isfinite(schedule).all() for schedule in schedules)
    assert schedules.lr.max() == pytest.approx(params.optimizer.base_lr * math.sqrt(8 / 1024))


def test_the_teacher_is_a_moving_average(tiny_params: MakeParams) -> None:
    params = tiny_params()
    teacher, student = (Network(params.base, params.pretrain) for _ in range(2))
    before = [parameter.detach().clone() for parameter in teacher.parameters()]
    update_teacher(teacher, student, 0.75, torch.zeros(()))
    for new, old, other in zip(teacher.parameters(), before, student.parameters(), strict=True):
        torch.testing.assert_close(new, 0.75 * old + 0.25 * other)
    moved = [parameter.detach().clone() for parameter in teacher.parameters()]
    update_teacher(teacher, student, 0.0, torch.ones(()))
    assert all(map(torch.equal, teacher.parameters(), moved))
    update_teacher(teacher, student, 0.0, torch.zeros(()))
    for new, other in zip(teacher.parameters(), student.parameters(), strict=True):
        torch.testing.assert_close(new, other)


def feed(meter: AverageMeter, loss: float, chosen: list[int], patches: int = 4) -> None:
    """Add a step with samples of the given prototypes at the narrower level, of the first prototype at the wider."""
    favorites = [torch.tensor(chosen), torch.zeros(len(chosen), dtype=torch.int64)]
    rows = [
        RowStatistics(torch.full((patches,), 0.5), torch.zeros(patches), favorites[0]),
        RowStatistics(torch.full((patches,), 2.25), torch.full((patches,), 2.0), favorites[1]),
    ]
    losses = torch.tensor([loss, 2 * loss])
    metrics = {"loss": Metric(torch.tensor(loss)), "koleo": Metric(torch.tensor(3.0))}
    metrics |= {PATCHES: patch_count(torch.ones(patches))}
    metrics |= level_metrics("dino", LEVELS, 2 * losses, rows)
    metrics |= level_metrics("ibot", LEVELS, losses, rows, per=PATCHES)
    meter.update(StudentLoss(torch.tensor(loss), metrics, {"dino": favorites, "ibot": favorites}))
    meter.add({"grad_norm/backbone": torch.tensor(5.0)})


def make_meter() -> AverageMeter:
    return AverageMeter(LEVELS, (4, 8), torch.device("cpu"))


def test_a_meter_reads_means_and_used_prototypes() -> None:
    meter = make_meter()
    feed(meter, 1.0, [0, 0])
    feed(meter, 3.0, [0, 2])
    metrics = meter.read(Ranks())
    assert metrics["train/loss"] == 2.0 and metrics["train/koleo"] == 3.0
    assert metrics["train/grad_norm/backbone"] == 5.0
    assert metrics["train/dino"] == 12.0 and metrics["train/ibot"] == 6.0
    assert metrics["train/dino/level1"] == 4.0 and metrics["train/ibot/level2"] == 4.0
    assert metrics["train/teacher_entropy/dino/level1"] == 0.0
    assert metrics["train/teacher_entropy/ibot/level2"] == 2.0
    assert metrics["train/divergence/ibot/level1"] == 0.5
    assert metrics["train/divergence/dino/level1"] == 0.5
    assert metrics["train/prototypes_used/dino/level1"] == 0.5
    assert metrics["train/prototypes_used/ibot/level2"] == 0.125

    feed(meter, 7.0, [1, 1])
    again = meter.read(Ranks())
    assert again["train/loss"] == 7.0 and again["train/prototypes_used/dino/level1"] == 0.25


def test_sums_over_patches_become_means_over_all_patches() -> None:
    meter = make_meter()
    feed(meter, 1.0, [0], patches=1)
    feed(meter, 1.0, [0], patches=3)
    metrics = meter.read(Ranks())
    assert metrics["train/teacher_entropy/ibot/level2"] == 2.0 and "train/patches" not in metrics
    feed(meter, 1.0, [0], patches=0)
    assert meter.read(Ranks())["train/teacher_entropy/ibot/level2"] == 0.0


def test_the_order_of_names_in_a_checkpoint_does_not_change(tiny_params: MakeParams) -> None:
    """A run resumed from an older checkpoint adds to the vectors that it contains."""
    losses = tiny_params(
        {"pretrain.losses.contrastive_weight": 1.0, "pretrain.losses.koleo_images": 2}
    ).pretrain.losses
    levels = [Level(torch.randn(4, 3), torch.randn(count, 3)) for count in (4, 8)]
    outputs = Outputs(torch.randn(4, 6), levels, levels, torch.randn(1, 4, 5))
    (targets,) = Assigner(losses, (4, 8))([outputs], 0.1)
    meter = make_meter()
    meter.update(student_loss(outputs, targets, torch.ones(4), losses, LEVELS))
    (names,) = meter.state_dict(Ranks())["sums"]
    heads = [
        [head, *(f"{kind}{head}/level{level}" for level in LEVELS for kind in ("", "teacher_entropy/", "divergence/"))]
        for head in ("dino", "ibot")
    ]
    assert list(names) == [
        "loss",
        "koleo",
        "patches",
        "contrastive",
        f"contrastive/level{LEVELS[-1]}",
        *heads[0],
        *heads[1],
    ]


def test_a_meter_continues_from_the_state_of_another() -> None:
    through, first, second = make_meter(), make_meter(), make_meter()
    feed(through, 1.0, [0, 1])
    feed(first, 1.0, [0, 1])
    second.load_state_dict(first.state_dict(Ranks()))
    feed(through, 2.0, [2, 2])
    feed(second, 2.0, [2, 2])
    assert second.read(Ranks()) == through.read(Ranks())


def test_collapse_is_reported_for_the_worst_level() -> None:
    healthy = {"train/loss": 0.0, "train/prototypes_used/dino/level1": 0.5}
    assert collapse_warning(healthy) is None
    collapsed = healthy | {
        "train/prototypes_used/ibot/level1": COLLAPSED_SHARE / 2,
        "train/prototypes_used/ibot/level2": COLLAPSED_SHARE / 4,
    }
    assert "train/prototypes_used/ibot/level2 is 2.5 %" in str(collapse_warning(collapsed))
    flat = healthy | {"val/effective_rank": 1.2}
    assert "signs of collapse: val/effective_rank is 1.2" in str(collapse_warning(flat))


def test_the_fingerprint_depends_on_what_determines_the_result(
    tiny_params: MakeParams, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def mark(params: ResolvedParams, data: str = "data") -> str:
        return fingerprint(params, data)

    plain = mark(tiny_params())
    assert len(plain) == 12 and plain == mark(tiny_params())
    for name in ("workers", "log_steps", "checkpoint_steps", "keep_checkpoints"):
        assert mark(tiny_params({f"runtime.{name}": 7})) == plain
    for changes in ({"evaluate.knn_k": 3}, {"disentangle.rounds": 1}, {"prepare.source": "elsewhere"}):
        assert mark(tiny_params(changes)) == plain
    others = [
        mark(tiny_params(), "other data"),
        mark(tiny_params({"runtime.threads": 2})),
        mark(tiny_params({"base.seed": 1})),
        mark(tiny_params({"pretrain.knn_epochs": 3})),
        mark(tiny_params({"pretrain.init": "start"})),
    ]
    (tmp_path / "start").mkdir()
    (tmp_path / "start/config.json").write_text("{}")
    others.append(mark(tiny_params({"pretrain.init": "start"})))
    assert len({plain, *others}) == len(others) + 1


def test_readings_after_the_checkpoint_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    folder = RunFolder("0123456789ab")
    for step in (1, 2, 3):
        folder.append(step, {"train/loss": 1 / step})
    folder.finish()
    folder.start_at(2)
    assert [line["step"] for line in folder.readings()] == [1, 2]
    assert list(folder.readings())[1]["metrics"] == {"train/loss": 0.5}
    assert not (tmp_path / "runs/pretrain-0123456789ab/finished").exists()
