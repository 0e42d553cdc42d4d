"""`franca import-weights`: files in, a model folder out, whole or not at all."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from ruamel.yaml import YAML
from safetensors.torch import save_file
from torch import Tensor

from franca.cli import main
from franca.files import sha256_tree
from franca.formats.official import rasa_to_official, to_official, to_official_release
from franca.models import FrancaModel, load_model
from franca.pretrain.setup import make_networks
from tests.conftest import MakeParams
from tests.formats.reading.conftest import MEAN, STD, MakeModel

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


Run = Callable[..., str]


@pytest.fixture
def imported(capsys: pytest.CaptureFixture[str]) -> Run:
    """What the command says when it works."""

    def run(*arguments: object) -> str:
        assert main(["import-weights", *map(str, arguments)]) == 0, capsys.readouterr().err
        said = capsys.readouterr()
        assert not said.err
        return said.out

    return run


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Run:
    """The one line that the command says when it does not work; nothing new lies in the folder."""

    def run(*arguments: object) -> str:
        before = sorted(Path().rglob("*"))
        assert main(["import-weights", *map(str, arguments)]) == 2
        said = capsys.readouterr()
        assert not said.out and said.err.count("\n") == 1 and sorted(Path().rglob("*")) == before
        return said.err.removeprefix("franca: ").rstrip()

    return run


def images(side: int = 28) -> Tensor:
    return torch.randint(256, (2, 3, side, side), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def check_features(got: FrancaModel, expected: FrancaModel, side: int = 28) -> None:
    for mine, theirs in zip(got(images(side)), expected(images(side)), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


def test_a_release_with_heads_and_rasa(make_model: MakeModel, imported: Run) -> None:
    model = make_model(rounds=3)
    checkpoint = to_official_release(model)
    checkpoint["teacher"]["dino_head.mlps.0.0.weight"] = torch.zeros(2)
    torch.save(checkpoint, "vitb14.pth")
    torch.save(rasa_to_official(model), "vitb14_rasa.pth")
    said = imported("vitb14.pth", "-o", "models/b14", "--rasa", "vitb14_rasa.pth")
    assert said.splitlines() == [
        "models/b14: ViT 64 wide, 5 blocks, 1 heads, swiglu, 0 registers, 28 px, patches of 7 px, 0.3 M parameters,"
        " 3 planes of RASA",
        "left out: dino_head (1 tensors); fresh heads start with pretrain.init",
        "train on: pretrain.init: models/b14 and base.backbone: {patch_size: 7, embed_dim: 64, depth: 5, num_heads: 1,"
        " ffn: swiglu, registers: 0, layer_scale: 1.0e-05, position_resampling: offset}",
    ]
    again = load_model(Path("models/b14"))
    assert (again.mean, again.std) == IMAGENET and torch.equal(again.position_planes, model.position_planes)
    model.mean, model.std = IMAGENET
    check_features(again, model)
    check_features(again, model, side=42)
    assert {path.name for path in Path("models/b14").iterdir()} == {"config.json", "model.safetensors"}
    assert [path.name for path in Path("models").iterdir()] == ["b14"]


def test_channels_heads_and_embedded_rasa(make_model: MakeModel, imported: Run) -> None:
    model = make_model(rounds=1, num_heads=4)
    save_file(to_official(model) | {f"rasa_head.{k}": v for k, v in rasa_to_official(model).items()}, "x.safetensors")
    channels = ["--mean", *model.mean, "--std", *model.std]
    assert "4 heads" in imported("x.safetensors", "-o", "out", "--num-heads", 4, *channels)
    again = load_model(Path("out"))
    assert (again.mean, again.std) == (model.mean, model.std)
    check_features(again, model)
    torch.save({"teacher": {f"rasa_head.{key}": value + 1 for key, value in rasa_to_official(model).items()}}, "r.pth")
    imported("x.safetensors", "-o", "other", "--rasa", "r.pth")
    assert torch.equal(load_model(Path("other")).position_planes, model.position_planes + 1)


def test_pretraining_goes_on_from_it(make_model: MakeModel, imported: Run, tiny_params: MakeParams) -> None:
    model = make_model(num_heads=4)
    torch.save(to_official_release(model), "x.pth")
    said = imported("x.pth", "-o", "start", "--num-heads", 4).splitlines()[-1]
    advice = re.fullmatch(r"train on: pretrain\.init: (\S+) and base\.backbone: (\{.*\})", said)
    assert advice
    params = tiny_params(
        {
            "pretrain.init": advice[1],
            "base.backbone": dict(YAML(typ="safe").load(advice[2])),
            "base.image_size": model.image_size,
            "pretrain.crops.local_size": 14,
            "evaluate.dense_size": 28,
        }
    )
    for network in make_networks(params, torch.device("cpu")):
        for key, value in network.backbone.state_dict().items():
            assert torch.equal(value, model.backbone.state_dict()[key]), key


def test_the_same_file_gives_the_same_bytes(make_model: MakeModel, imported: Run) -> None:
    torch.save(to_official_release(make_model()), "x.pth")
    imported("x.pth", "-o", "a/model")
    imported("x.pth", "-o", "b/model")
    assert sha256_tree(Path("a/model")) == sha256_tree(Path("b/model"))


def test_what_is_there_is_kept_unless_it_is_a_model_and_force_is_given(
    make_model: MakeModel, imported: Run, refused: Run
) -> None:
    torch.save(to_official(make_model()), "x.pth")
    torch.save(to_official(make_model(depth=2)), "y.pth")
    Path("empty").mkdir()
    imported("x.pth", "-o", "empty")
    assert refused("y.pth", "-o", "empty") == (
        "empty: holds a model already; name another folder, or replace it with --force"
    )
    assert len(load_model(Path("empty")).backbone.blocks) == 5
    imported("y.pth", "-o", "empty", "--force")
    assert len(load_model(Path("empty")).backbone.blocks) == 2
    Path("link").symlink_to("empty")
    imported("x.pth", "-o", "link", "--force")
    assert Path("link").is_symlink() and len(load_model(Path("empty")).backbone.blocks) == 5
    Path("empty/notes.txt").write_text("mine")
    for place, odd in (("empty", "notes.txt"), (".", "empty, link, x.pth"), ("x.pth", "x.pth")):
        assert refused("x.pth", "-o", place, "--force") == (
            f"{place}: no model folder ({odd}), so that it is not written over; name another one"
        )
    Path("half").mkdir()
    Path("half/config.json").write_text("{}")
    assert refused("x.pth", "-o", "half", "--force").startswith("half: no model folder (not all of a model)")


def test_a_fault_leaves_the_model_that_was_there(make_model: MakeModel, imported: Run, refused: Run) -> None:
    torch.save(to_official(make_model()), "x.pth")
    imported("x.pth", "-o", "model")
    before = sha256_tree(Path("model"))
    torch.save({key: value for key, value in to_official(make_model()).items() if key != "norm.bias"}, "y.pth")
    assert refused("y.pth", "-o", "model", "--force") == (
        "y.pth: the weights do not fit the architecture: missing norm.bias"
    )
    torch.save({"pos_pred.weight": torch.zeros(2, 32)}, "rasa.pth")
    assert refused("x.pth", "-o", "model", "--force", "--rasa", "rasa.pth") == (
        "rasa.pth: a RASA head for 32 dimensions; the model has 64"
    )
    assert sha256_tree(Path("model")) == before


def test_mistakes_in_the_command(refused: Run) -> None:
    assert refused("-o", "out") == "no file to import; name one, or a model of timm with --timm"
    assert refused("x.pth", "-o", "out") == "x.pth: no such file"
    assert refused("-o", "out", "--timm", "test_vit", "--num-heads", 3) == (
        "--num-heads: test_vit has its own number of heads; leave it out"
    )
    assert refused("x.pth", "-o", "out", "--mean", 123, 116, 103).startswith("--mean: 123 116 103 are not of channels")
    assert refused("x.pth", "-o", "out", "--std", 0.2, 0.2, 0).startswith("--std: 0.2 0.2 0 are not of channels")


KILLED = """
import time
from pathlib import Path
import franca.formats.importing as importing
write = importing.save_model
def save_model(model, folder):
    write(model, folder)
    (folder / "config.json").unlink()
    print("half", flush=True)
    time.sleep(60)
importing.save_model = save_model
importing.run([Path("x.pth")], Path("model"), force=True)
"""


def test_killed_while_it_writes(make_model: MakeModel, imported: Run) -> None:
    torch.save(to_official(make_model()), "x.pth")
    imported("x.pth", "-o", "model")
    before = sha256_tree(Path("model"))
    process = subprocess.Popen([sys.executable, "-c", KILLED], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "half\n"
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert sha256_tree(Path("model")) == before


# timm's names for the models of other people, and those people's names for the same weights.


def as_clip(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """OpenCLIP's names, with a text tower and the projection beside."""
    names = {
        "patch_embed.proj.": "conv1.",
        "norm_pre.": "ln_pre.",
        "blocks.": "transformer.resblocks.",
        ".norm1.": ".ln_1.",
        ".norm2.": ".ln_2.",
        ".attn.qkv.": ".attn.in_proj_",
        ".attn.proj.": ".attn.out_proj.",
        ".mlp.fc1.": ".mlp.c_fc.",
        ".mlp.fc2.": ".mlp.c_proj.",
    }
    out = {"positional_embedding": torch.zeros(7, 5), "logit_scale": torch.zeros(())}
    for key, value in state.items():
        for ours, theirs in names.items():
            key = key.replace(ours, theirs)
        key = f"ln_post.{key.removeprefix('norm.')}" if key.startswith("norm.") else key
        match key:
            case "cls_token":
                key, value = "class_embedding", value[0, 0]
            case "pos_embed":
                key, value = "positional_embedding", value[0]
        out[f"visual.{key}"] = value
    return out | {"visual.proj": torch.zeros(state["cls_token"].shape[-1], 6)}


def as_open_clip_trunk(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """OpenCLIP's names where its tower is a model of timm, as SigLIP's is."""
    return {f"visual.trunk.{key}": value for key, value in state.items()} | {
        "text.token_embedding.weight": torch.ones(2)
    }


def as_dinov2(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """DINOv2's names, registers or not."""
    out = dict(state) | {"mask_token": torch.zeros(1, state["cls_token"].shape[-1])}
    if "reg_token" in out:
        out["register_tokens"] = out.pop("reg_token")
        out["pos_embed"] = torch.cat([torch.zeros_like(out["pos_embed"][:, :1]), out["pos_embed"]], dim=1)
    return out


def as_teacher(state: dict[str, Tensor]) -> dict[str, Any]:
    return {"teacher": as_dinov2(state) | {"dino_head.last_layer.weight": torch.ones(1)}}


def with_classifier(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return state | {"head.weight": torch.ones(1000, 64), "head.bias": torch.ones(1000)}


def with_pooling(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return as_open_clip_trunk(state | {"attn_pool.latent": torch.ones(1, 1, 768)})


ORIGINALS = [
    pytest.param("test_vit", with_classifier, "head (2 tensors)", id="timm"),
    pytest.param("vit_xsmall_patch16_clip_224", as_clip, "head (2 tensors)", id="CLIP"),
    pytest.param("test_vit3", as_open_clip_trunk, "", id="trunk of OpenCLIP"),
    pytest.param("vit_base_patch16_siglip_224", as_open_clip_trunk, "", id="SigLIP", marks=pytest.mark.slow),
    pytest.param(
        "vit_base_patch16_siglip_gap_224",
        with_pooling,
        "attn_pool (1 tensors)",
        id="SigLIP without its pooling",
        marks=pytest.mark.slow,
    ),
    pytest.param("vit_small_patch14_dinov2", as_dinov2, "", id="DINOv2"),
    pytest.param(
        "vit_small_patch14_reg4_dinov2.lvd142m", as_teacher, "dino_head (1 tensors)", id="DINOv2 with registers"
    ),
]


@pytest.mark.parametrize(("name", "as_original", "left_out"), ORIGINALS)
def test_originals_of_timms_models(
    name: str, as_original: Callable[[dict[str, Tensor]], dict[str, Any]], left_out: str, imported: Run
) -> None:
    about = timm.get_pretrained_cfg(name)
    assert about is not None
    source = FrancaModel(name, about.input_size[-1], MEAN, STD)
    torch.save(as_original(dict(source.backbone.state_dict())), "original.pth")
    said = imported("original.pth", "-o", "out", "--timm", name)
    assert said.startswith(f"out: timm's {name}, {source.image_size} px, patches of {source.patch_size} px")
    assert f"left out: {left_out}" in said if left_out else "left out" not in said
    assert "compare with it: evaluate.comparators: [out]" in said
    again = load_model(Path("out"))
    assert again.architecture == name and (again.mean, again.std) == (about.mean, about.std)
    source.mean, source.std = again.mean, again.std
    ours = source.backbone.state_dict()
    for key, value in again.backbone.state_dict().items():
        assert torch.equal(value, ours[key]), key
    check_features(again, source, side=2 * source.patch_size)


def test_faults_of_timms_models(imported: Run, refused: Run) -> None:
    torch.save({"cls_token": torch.zeros(1, 1, 64)}, "x.pth")
    assert refused("x.pth", "-o", "out", "--timm", "test_vit").startswith(
        "x.pth: the weights do not fit the architecture: missing blocks.0.attn.proj.bias; "
    )
    torch.save({"visual.class_embedding": torch.zeros(()), "visual.proj": torch.zeros(())}, "x.pth")
    assert refused("x.pth", "-o", "out", "--timm", "test_vit").startswith(
        "x.pth: no weights of test_vit in a form that timm reads ("
    )
    for name, fault in (
        ("no_such_vit", "no_such_vit: timm has no model of that name"),
        ("test_vit.nope", "test_vit.nope: Invalid pretrained tag (nope) for test_vit"),
        ("hf-hub:timm/test_vit", "hf-hub:timm/test_vit: timm has no model of that name"),
        ("resnet18", "resnet18: "),
        (
            "vit_base_patch16_xp_224",
            "vit_base_patch16_xp_224: timm has no pretrained weights of that name; a local file",
        ),
    ):
        assert refused("-o", "out", "--timm", name).startswith(fault)


def test_a_hub_that_nobody_answers_for(tmp_path: Path) -> None:
    away = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-m", "franca", "import-weights", "-o", "out", "--timm", "test_vit"],
        env=os.environ | away,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1
    assert done.stderr.startswith("franca: test_vit: timm's hub does not give the weights (") and done.stderr.endswith(
        "); a local file of these weights does instead: franca import-weights FILE --timm test_vit\n"
    )
    assert not Path("out").exists()
