"""Each mistake in params.yaml is one line: the file, the path of the key, what is wrong, the value."""

import json
from pathlib import Path
from typing import Any

import pytest

from franca.errors import FrancaError
from franca.params import load_params, parse_params
from franca.params.datasets import DATASET
from franca.params.register import GATED
from tests.conftest import MakeValues, set_value

MISSING: Any = object()
NAME = r"register.model_name: string should match pattern '^[\w .+()-]+$', not"

MISTAKES: list[tuple[str, Any, str]] = [
    # unknown keys
    ("pretrain.epoch", 3, "pretrain.epoch: unknown key (value 3); did you mean epochs?"),
    ("regster", {}, "regster: unknown key (value {}); did you mean register?"),
    (
        "register.gate",
        1,
        "register.gate: unknown key (value 1); did you mean gates?",
    ),
    (
        "base.backbone.foo",
        1,
        "base.backbone.foo: unknown key (value 1);"
        " known here: patch_size, embed_dim, depth, num_heads, ffn, registers, layer_scale,"
        " position_resampling",
    ),
    # missing keys
    ("evaluate", MISSING, "evaluate: missing key"),
    ("pretrain.optimizer.clip_norm", MISSING, "pretrain.optimizer.clip_norm: missing key"),
    (
        "register.gates",
        [{"metric": "knn/val/top1", "min_improvement": 0.0, "floor": None}],
        "register.gates.0.against: missing key",
    ),
    (
        "register.gates",
        [{"metric": "loss/val/r2", "against": "random", "min_improvement": 0, "floor": None}],
        f"register.gates.0.metric: string should match pattern '^({DATASET}/)?({GATED})/(val|test)/\\w+$'"
        ', not "loss/val/r2"',
    ),
    (
        "register.gates",
        [{"metric": "knn/val/top1", "against": "nobody", "min_improvement": 0, "floor": None}],
        "register.gates.0.against: input should be 'champion', 'random' or 'pixels', not \"nobody\"",
    ),
    (
        "register.gates",
        [{"metric": "knn_levels/val/top1", "against": "random", "min_improvement": 0, "floor": None}],
        "register.gates.0: metric 'knn_levels/val/top1' is unknown; knn_levels has top1_D, D a number such as 192",
    ),
    (
        "register.gates",
        [{"metric": "few_shot/val/top1_5", "against": "random", "min_improvement": 0, "floor": None}],
        "params: register.gates: metric 'few_shot/val/top1_5' is not measured;"
        " set evaluate.suite to full or remove it",
    ),
    (
        "register.gates",
        [{"metric": "rank/val/rankme", "against": "pixels", "min_improvement": 0, "floor": None}],
        "register.gates.0: metric 'rank/val/rankme' is not measured of raw pixels; use against 'random'",
    ),
    ("pretrain.crops.global_scale", [0.4], "pretrain.crops.global_scale.1: missing key"),
    # types
    (
        "pretrain.batch_size",
        "many",
        'pretrain.batch_size: input should be a valid integer, unable to parse string as an integer, not "many"',
    ),
    (
        "pretrain.batch_size",
        2.5,
        "pretrain.batch_size: input should be a valid integer, got a number with a fractional part, not 2.5",
    ),
    ("pretrain", None, "pretrain: input should be a valid dictionary or instance of Pretrain, not null"),
    (
        "pretrain.heads.nesting",
        "sliced",
        "pretrain.heads.nesting: input should be 'project', 'slice' or 'none', not \"sliced\"",
    ),
    # bounds
    ("base.seed", -1, "base.seed: input should be greater than or equal to 0, not -1"),
    ("prepare.val_fraction", 1.0, "prepare.val_fraction: input should be less than 1, not 1.0"),
    ("pretrain.epochs", -1, "pretrain.epochs: input should be greater than or equal to 0, not -1"),
    ("pretrain.epochs", 0, "pretrain: epochs 0 trains nothing and needs a model in init"),
    ("pretrain.epochs", float("inf"), "pretrain.epochs: input should be a finite number, not Infinity"),
    (
        "pretrain.crops.global_scale",
        [0.4, 2],
        "pretrain.crops.global_scale.1: input should be less than or equal to 1, not 2",
    ),
    ("register.model_name", "a/b", f'{NAME} "a/b"'),
    ("register.model_name", "o'brien", f'{NAME} "o\'brien"'),
    ("pretrain.epochs", 1e308, "pretrain.epochs: input should be less than or equal to 1000000, not 1e+308"),
    ("evaluate.linear_c", [], "evaluate.linear_c: list should have at least 1 item after validation, not 0, not []"),
    # what does not go together
    ("base.image_size", 33, "base: image_size 33 must be a multiple of backbone.patch_size 8"),
    ("base.backbone.embed_dim", 40, "base.backbone: embed_dim 40 must be a multiple of 16 and of num_heads 2"),
    ("base.backbone.num_heads", 3, "base.backbone: embed_dim 32 must be a multiple of 16 and of num_heads 3"),
    ("pretrain.crops.global_scale", [1.0, 0.4], "pretrain.crops: global_scale [1.0, 0.4] must rise from above 0"),
    ("pretrain.crops.local_scale", [0.0, 0.4], "pretrain.crops: local_scale [0.0, 0.4] must rise from above 0"),
    ("pretrain.masks.ratio", [0.5, 0.1], "pretrain.masks: ratio [0.5, 0.1] must rise"),
    ("pretrain.heads.sharing", "shared", "pretrain.heads: sharing 'shared' needs nesting 'slice', not 'project'"),
    ("pretrain.optimizer.warmup_epochs", 9, "pretrain: optimizer.warmup_epochs 9 is longer than epochs 2"),
    ("pretrain.losses.teacher_warmup_epochs", 9, "pretrain: losses.teacher_warmup_epochs 9 is longer than epochs 2"),
    (
        "pretrain.crops.local_size",
        17,
        "params: pretrain.crops.local_size 17 must be a multiple of base.backbone.patch_size 8",
    ),
    ("evaluate.dense_size", 63, "params: evaluate.dense_size 63 must be a multiple of base.backbone.patch_size 8"),
    (
        "pretrain.heads.prototypes",
        16,
        "params: pretrain.heads.prototypes must be at least 32 so that the coarsest level has two",
    ),
    ("runtime.microbatch", 7, "params: runtime.microbatch 7 must be at least pretrain.losses.koleo_images 8"),
    (
        "register.gates",
        [{"metric": "knn/test/top1", "against": "champion", "min_improvement": 0.0, "floor": None}],
        "register.gates.0: metric 'knn/test/top1' is of the test split, which is reported and never gated on",
    ),
]


@pytest.mark.parametrize(("path", "value", "line"), MISTAKES, ids=[line.split(":")[0] for _, _, line in MISTAKES])
def test_one_line_says_what_is_wrong(tiny_values: MakeValues, path: str, value: Any, line: str) -> None:
    values = tiny_values()
    if value is MISSING:
        *parents, leaf = path.split(".")
        section = values
        for key in parents:
            section = section[key]
        del section[leaf]
    else:
        set_value(values, path, value)
    with pytest.raises(FrancaError) as caught:
        parse_params(values, "params.yaml")
    assert str(caught.value) == f"params.yaml: {line}"


def test_every_mistake_gets_its_line(tiny_values: MakeValues) -> None:
    values = tiny_values({"base.seed": -1, "pretrain.epoch": 3, "runtime.threads": "a" * 100})
    with pytest.raises(FrancaError) as caught:
        parse_params(values, "params.yaml")
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert lines[2].endswith('not "' + "a" * 56 + "...")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("base:\n  seed: [0", " line 2: not valid YAML: expected ',' or ']', but got '<stream end>'"),
        ("base:\n  seed: 0\n  seed: 1\n", ' line 3: not valid YAML: found duplicate key "seed" with value'),
        ("base: !!python/object:os.system {}\n", " line 1: not valid YAML: could not determine a constructor"),
        ("\x00", ": not valid YAML: "),
        ("", ": empty; `franca params use overhead-cpu` writes a whole file"),
        ("- 1\n", ": not a mapping of sections; `franca params use overhead-cpu` writes a whole file"),
    ],
    ids=["open list", "twice", "tag", "binary", "empty", "list"],
)
def test_a_file_that_is_no_params_file(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(FrancaError) as caught:
        load_params(path)
    assert str(caught.value).startswith(f"{path}{reason}") and "\n" not in str(caught.value)


def test_bytes_that_are_no_text_and_no_file_at_all(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    with pytest.raises(FrancaError) as caught:
        load_params(path)
    assert str(caught.value) == f"{path}: no such file; `franca params use overhead-cpu` writes one"
    path.write_bytes(b"base: \xff\xfe")
    with pytest.raises(FrancaError, match=r"params.yaml: not valid YAML: not text in UTF-8$"):
        load_params(path)


def test_numbers_are_read_as_yaml_1_2(tmp_path: Path, tiny_values: MakeValues) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(json.dumps(tiny_values({"pretrain.optimizer.min_lr": "HERE"})).replace('"HERE"', "1e-6"))
    assert load_params(path).pretrain.optimizer.min_lr == 1e-6
