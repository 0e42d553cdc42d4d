"""The stage in this process: what starts it, what it refuses and what it writes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from franca.errors import FrancaError
from franca.files import read_json
from franca.models import FrancaModel, load_model, random_model, save_model
from tests.conftest import MakeParams, MakeStore
from tests.pretrain.conftest import MakeProject, Project, rows

Pretrain = Callable[[Project], None]
SHORT = {"pretrain.epochs": 1, "pretrain.losses.teacher_warmup_epochs": 0.5}


def test_other_params_are_another_run(make_project: MakeProject, pretrain: Pretrain) -> None:
    project = make_project(SHORT | {"pretrain.optimizer.base_lr": 4e-3})
    pretrain(project)
    first = project.outs()
    project.set({"pretrain.optimizer.base_lr": 1e-3})
    pretrain(project)
    assert len(list((project.folder / "runs").iterdir())) == 2
    assert project.outs()["models/pretrained/model.safetensors"] != first["models/pretrained/model.safetensors"]
    project.set({"pretrain.optimizer.base_lr": 4e-3})
    pretrain(project)
    assert project.outs() == first


def test_runtime_changes_no_weights_and_finds_the_same_run(
    make_project: MakeProject, pretrain: Pretrain, capsys: pytest.CaptureFixture[str]
) -> None:
    project = make_project(SHORT)
    pretrain(project)
    first = project.outs()["models/pretrained/model.safetensors"]
    project.set({"runtime.log_steps": 2, "runtime.checkpoint_steps": 1, "runtime.keep_checkpoints": 1})
    pretrain(project)
    assert "resuming from the checkpoint of step 3 of 3" in capsys.readouterr().out
    assert project.outs()["models/pretrained/model.safetensors"] == first


def test_the_newest_checkpoints_are_kept(make_project: MakeProject, pretrain: Pretrain) -> None:
    project = make_project(SHORT | {"runtime.checkpoint_steps": 1, "runtime.keep_checkpoints": 2})
    pretrain(project)
    assert [path.name for path in project.checkpoints()] == ["step-00000002", "step-00000003"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"pretrain.batch_size": 32}, "pretrain.batch_size: 32 is more than the 24 training images"),
        (
            {"runtime.device": "cuda"},
            "runtime.device: 'cuda' is asked for, but torch sees no GPU; set 'auto' or 'cpu'",
        ),
        ({"pretrain.init": "nowhere"}, "nowhere: not a model folder, nowhere/config.json is missing"),
        ({"pretrain.optimizer.base_lr": 1e30}, "the loss is not finite at step 3 (training images 18, 4, "),
        (
            {"pretrain.optimizer.base_lr": 1e30, "runtime.log_steps": 100, "runtime.checkpoint_steps": 1},
            "the loss is not finite at step 3 (training images 18, 4, ",
        ),
    ],
    ids=["batch", "device", "init", "diverged", "diverged between readings"],
)
def test_what_cannot_go_on_is_told_in_one_line(
    make_project: MakeProject,
    pretrain: Pretrain,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    reason: str,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    project = make_project(SHORT | changes)
    with pytest.raises(FrancaError) as caught:
        pretrain(project)
    assert str(caught.value).startswith(reason) and "\n" not in str(caught.value)
    assert caught.value.exit_code == 2
    assert not project.outs()


def test_auto_is_a_run_with_the_numbers_of_the_store(make_project: MakeProject, pretrain: Pretrain) -> None:
    project = make_project(SHORT | {"base.mean": "auto", "base.std": "auto"})
    pretrain(project)
    channels = read_json(project.folder / "prepared/manifest.json")["channels"]
    config = read_json(project.folder / "models/pretrained/config.json")
    assert {name: config[name] for name in channels} == channels, "a saved model has numbers"
    first, run_folder = project.outs(), project.run_folder
    project.set({f"base.{name}": values for name, values in channels.items()})
    pretrain(project)
    assert project.outs() == first and project.run_folder == run_folder


def test_without_a_prepared_store(make_project: MakeProject, pretrain: Pretrain) -> None:
    project = make_project(SHORT)
    (project.folder / "prepared").unlink()
    with pytest.raises(FrancaError, match=r"^prepared/manifest.json: no such file; run `dvc repro prepare` first$"):
        pretrain(project)


def test_without_labels(make_project: MakeProject, pretrain: Pretrain, tmp_path: Path, make_store: MakeStore) -> None:
    project = make_project(SHORT)
    (project.folder / "prepared").unlink()
    make_store(project.folder / "prepared", labelled=False)
    pretrain(project)
    assert "knn_top1" not in read_json(project.folder / "results/pretrain/metrics.json")
    assert rows(project, "knn") == [] and len(rows(project, "loss")) == 3


def test_start_from_another_models_weights(
    make_project: MakeProject, pretrain: Pretrain, tiny_params: MakeParams
) -> None:
    # A start at another image size, and a learning rate too small to leave it.
    project = make_project(SHORT | {"pretrain.init": "start", "pretrain.optimizer.base_lr": 1e-12})
    start = random_model(tiny_params({"base.image_size": 16, "base.seed": 7}).base)
    save_model(start, project.folder / "start")
    pretrain(project)
    model = load_model(project.folder / "models/pretrained")
    for key, value in start.state_dict().items():
        if key != "backbone.pos_embed":
            torch.testing.assert_close(model.state_dict()[key], value)
    assert model.state_dict()["backbone.pos_embed"].shape == (1, 17, 32)

    before = set((project.folder / "runs").iterdir())
    other = random_model(tiny_params({"base.image_size": 16, "base.seed": 8}).base)
    save_model(other, project.folder / "start")
    pretrain(project)
    assert len(set((project.folder / "runs").iterdir()) - before) == 1, "other start weights are another run"


def test_start_from_another_architecture_is_refused(
    make_project: MakeProject, pretrain: Pretrain, tiny_params: MakeParams
) -> None:
    project = make_project(SHORT | {"pretrain.init": "start"})
    save_model(random_model(tiny_params({"base.backbone.depth": 3}).base), project.folder / "start")
    with pytest.raises(
        FrancaError, match=r"^pretrain.init: start holds another architecture than base.backbone: .*depth=3"
    ):
        pretrain(project)


@pytest.mark.parametrize("architecture", ["ours", "timm"])
def test_no_epochs_pass_a_model_on_as_it_is(
    make_project: MakeProject, pretrain: Pretrain, tiny_params: MakeParams, architecture: str
) -> None:
    project = make_project(SHORT | {"pretrain.init": "start", "pretrain.epochs": 0})
    start = random_model(tiny_params({"base.image_size": 16, "base.backbone.depth": 3}).base)
    if architecture == "timm":
        start = FrancaModel("vit_tiny_patch16_224", 32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    save_model(start, project.folder / "start")
    pretrain(project)
    for name in ("model.safetensors", "config.json"):
        before, after = (project.folder / folder / name for folder in ("start", "models/pretrained"))
        assert before.read_bytes() == after.read_bytes()
    metrics = read_json(project.folder / "results/pretrain/metrics.json")
    assert metrics == {"steps": 0, "fingerprint": project.run_folder.name.removeprefix("pretrain-")}
    assert rows(project, "loss") == []


def test_a_timm_model_of_the_same_build_is_gone_on_with(make_project: MakeProject, pretrain: Pretrain) -> None:
    tiny = {"patch_size": 16, "embed_dim": 192, "depth": 12, "num_heads": 3, "ffn": "mlp"}
    changes = {f"base.backbone.{name}": value for name, value in tiny.items()}
    crops = {"base.image_size": 32, "evaluate.dense_size": 64, "pretrain.optimizer.base_lr": 1e-12}
    one_step = {"pretrain.epoch_length": 1, "pretrain.init": "start"}
    project = make_project(SHORT | changes | crops | one_step)
    start = FrancaModel("vit_small_patch14_reg4_dinov2", 28, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    for block in start.backbone.blocks:
        block.ls1.gamma.fill_(1)  # untrained, it would hide what attention does
    save_model(start, project.folder / "start")
    with pytest.raises(FrancaError, match=r"^pretrain.init: start: the weights do not fit the architecture: "):
        pretrain(project)
    dino = {"patch_size": 14, "embed_dim": 384, "num_heads": 6, "registers": 4}
    project.set({f"base.backbone.{name}": value for name, value in dino.items()})
    project.set({"base.image_size": 28, "pretrain.crops.local_size": 14, "evaluate.dense_size": 56})
    pretrain(project)
    images = torch.randint(256, (1, 3, 28, 28), dtype=torch.uint8)
    model = load_model(project.folder / "models/pretrained")
    torch.testing.assert_close(
        model.backbone.forward_features(images / 255), start.backbone.forward_features(images / 255), atol=1e-3, rtol=0
    )
    project.set({"base.backbone.num_heads": 3})
    with pytest.raises(FrancaError, match=r"whose weights fit base.backbone but give other features there"):
        pretrain(project)


@pytest.mark.parametrize(
    "changes",
    [
        {"pretrain.heads.nesting": "slice"},
        {"pretrain.heads.nesting": "slice", "pretrain.heads.sharing": "shared"},
        {"pretrain.heads.nesting": "none"},
        {"pretrain.crops.local_count": 0},
        {"pretrain.masks.image_share": 0.0},
        {"pretrain.precision": "bf16"},
        {"pretrain.dense_share": 1.0, "base.backbone.registers": 2, "base.backbone.ffn": "swiglu"},
        {"pretrain.drop_path": 0.5, "pretrain.optimizer.freeze_last_layer_epochs": 1},
    ],
    ids=["slice", "shared", "one level", "no local crops", "no masks", "bf16", "dense", "drop path"],
)
def test_every_variant_trains(make_project: MakeProject, pretrain: Pretrain, changes: dict[str, Any]) -> None:
    project = make_project(SHORT | {"pretrain.epoch_length": 2} | changes)
    pretrain(project)
    assert [row["step"] for row in rows(project, "loss")] == ["1", "2"]
    load_model(project.folder / "models/pretrained")


def test_prototypes_stay_while_they_are_frozen(make_project: MakeProject, pretrain: Pretrain) -> None:
    project = make_project(
        SHORT | {"pretrain.optimizer.freeze_last_layer_epochs": 1, "pretrain.optimizer.weight_decay": [0.5, 0.5]}
    )
    pretrain(project)
    state = project.weights()
    for key, value in state.items():
        if key.startswith("student") and key.endswith("weight_g"):
            assert torch.equal(value, torch.ones_like(value))
    assert not torch.equal(state["student.dino_head.mlps.0.0.weight"], state["teacher.dino_head.mlps.0.0.weight"])


def test_a_line_that_a_kill_cut_short_is_forgotten(make_project: MakeProject, pretrain: Pretrain) -> None:
    project = make_project(SHORT)
    pretrain(project)
    first = project.outs()
    path = project.run_folder / "metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 4, "ti')
    pretrain(project)
    assert project.outs() == first
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3]
