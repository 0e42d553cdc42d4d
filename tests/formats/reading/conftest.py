"""Tiny models with weights to tell apart, and their official checkpoints."""

from collections.abc import Callable

import pytest
import torch

from franca.models import FrancaModel
from franca.params import Backbone

MakeModel = Callable[..., FrancaModel]
MEAN, STD = (0.5, 0.4, 0.3), (0.1, 0.2, 0.3)


def _make_model(rounds: int = 0, **changes: object) -> FrancaModel:
    about = {
        "patch_size": 7,
        "embed_dim": 64,
        "depth": 5,
        "num_heads": 1,
        "ffn": "swiglu",
        "registers": 0,
        "layer_scale": 1e-5,
        "position_resampling": "offset",
    }
    model = FrancaModel(Backbone.model_validate(about | changes), 28, MEAN, STD)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.backbone.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) / 10)
    model.remove_position(torch.randn(rounds, 2, 64, generator=generator))
    return model


@pytest.fixture(scope="session")
def make_model() -> MakeModel:
    """Our model: 64 wide, 5 blocks, 28 px, with `rounds` planes of RASA and changes of the architecture."""
    return _make_model
