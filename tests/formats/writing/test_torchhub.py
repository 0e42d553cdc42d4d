import subprocess
import sys
from typing import Any

import pytest

from tests.formats.writing.conftest import CHOICES, Exported, MakeModel, assert_same, expected, make_image, perturbed


@pytest.mark.parametrize("choices", CHOICES)
def test_the_hub_gives_our_features(make_model: MakeModel, exported: Exported, choices: dict[str, Any]) -> None:
    model = make_model(registers=4)
    _, features = exported(model, "torchhub", **choices)
    assert_same(features, expected(model, make_image(), **choices))


def test_models_of_timm(exported: Exported) -> None:
    model = perturbed("test_vit3")
    _, features = exported(model, "torchhub", dim=8)
    assert_same(features, expected(model, make_image(), dim=8), 1e-4)


ALONE = """
import sys
sys.modules["franca"] = None
import torch
model = torch.hub.load(sys.argv[1], "franca", source="local", global_pool="token")
print(tuple(model(torch.zeros(1, 3, 32, 32)).shape))
"""


def test_it_needs_no_franca(make_model: MakeModel, exported: Exported) -> None:
    folder, _ = exported(make_model(), "torchhub", keep_position=True)
    done = subprocess.run([sys.executable, "-c", ALONE, folder], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(1, 32)"
