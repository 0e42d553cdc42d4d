from typing import Any

import pytest
import torch

from tests.forked import succeeds_without
from tests.formats.conftest import CHOICES, Exported, MakeModel, assert_same, expected, make_image, perturbed


@pytest.mark.parametrize("choices", CHOICES)
def test_torch_hub_has_the_same_features(make_model: MakeModel, exported: Exported, choices: dict[str, Any]) -> None:
    model = make_model(registers=4)
    _, features = exported(model, "torchhub", **choices)
    assert_same(features, expected(model, make_image(), **choices))


def test_models_of_timm(exported: Exported) -> None:
    model = perturbed("test_vit3")
    _, features = exported(model, "torchhub", dim=8)
    assert_same(features, expected(model, make_image(), dim=8), 1e-4)


def test_it_does_not_need_franca(make_model: MakeModel, exported: Exported) -> None:
    folder, _ = exported(make_model(), "torchhub", keep_position=True)

    def load() -> None:
        model = torch.hub.load(str(folder), "franca", source="local", global_pool="token")
        assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 32)

    assert succeeds_without(["franca"], load)
