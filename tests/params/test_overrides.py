"""Changes of the form NAME=VALUE: what they set, and one line for each mistake."""

from typing import Any

import pytest

from franca.errors import FrancaError
from franca.params.overrides import override
from tests.conftest import MakeValues


def test_values_of_every_kind(tiny_values: MakeValues) -> None:
    values = tiny_values()
    changes = [
        "pretrain.epochs=9",
        "pretrain.epochs=3.5",
        "pretrain.optimizer.min_lr=1e-5",
        "pretrain.init=null",
        "pretrain.crops.global_scale=[0.3, 1]",
        "register.model_name=a b",
        "datasets={aerial: {path: 'data=1', task: segmentation}}",
    ]
    params = override(values, changes)
    assert params.pretrain.epochs == 3.5 and params.pretrain.optimizer.min_lr == 1e-5
    assert params.pretrain.init is None and list(params.pretrain.crops.global_scale) == [0.3, 1.0]
    assert params.register_.model_name == "a b" and params.datasets["aerial"].path == "data=1"
    assert values == tiny_values()
    assert override(values, []) == override(values, ["base.seed=0"])


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ("pretrain.epocs=1", "changed values: pretrain.epocs: unknown key (value 1); did you mean epochs?"),
        ("pretran.epochs=1", "changed values: pretran: unknown key (value {\"epochs\": 1}); did you mean pretrain?"),
        ("epochs=1", "changed values: epochs: unknown key"),
        ("pretrain..epochs=1", "changed values: pretrain.: unknown key"),
        ("pretrain.epochs=-1", "changed values: pretrain.epochs: "),
        ("pretrain.epochs=many", "changed values: pretrain.epochs: "),
        ("pretrain=3", "changed values: pretrain: "),
        ("base.backbone.embed_dim=100", "changed values: base.backbone: embed_dim 100 must be a multiple of"),
        ("base.seed.more=1", "base.seed.more: base.seed is one value without keys; set it as a whole"),
        ("register.gates.0.floor=1", "register.gates.0.floor: register.gates is one value without keys"),
        ("pretrain.epochs", "pretrain.epochs: not of the form NAME=VALUE; an empty value is null"),
        ("pretrain.epochs=", "pretrain.epochs=: not of the form NAME=VALUE"),
        ("=3", "=3: not of the form NAME=VALUE"),
        ("", "an empty change: not of the form NAME=VALUE"),
        ("pretrain.epochs=[1", "pretrain.epochs line 1: not valid YAML"),
    ],
)  # fmt: skip
def test_mistakes(tiny_values: MakeValues, change: str, line: str) -> None:
    with pytest.raises(FrancaError) as caught:
        override(tiny_values(), [change])
    assert str(caught.value).startswith(line) and "\n" not in str(caught.value)


def test_each_mistake_has_its_line(tiny_values: MakeValues) -> None:
    changes: list[Any] = ["pretrain.epocs=1", "evaluate.knn_k=0"]
    with pytest.raises(FrancaError) as caught:
        override(tiny_values(), changes)
    assert str(caught.value).count("\n") == 1
