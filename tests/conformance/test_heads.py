"""Case 01: logits of all levels and gradients of the nested head that learns its projections."""

import pytest
import torch
from torch import nn

from franca.models.heads import NestedHead
from franca.params import Heads
from tests.conformance.conftest import Case


@pytest.mark.case("01_nested_head")
def test_logits_and_gradients(case: Case) -> None:
    about = case.parameters
    head = NestedHead(
        about["in_dim"],
        Heads(
            prototypes=about["out_dim"],
            hidden_dim=about["hidden_dim"],
            bottleneck_dim=about["bottleneck_dim"],
            init="fixed",
            nesting="project",
            sharing="dedicated",
        ),
    )
    head.load_state_dict(case.weights())
    x = case["input/x"].requires_grad_()
    logits = [level.hidden @ level.prototypes.T for level in head(x)]
    scalar = torch.stack([level.square().sum() for level in logits]).sum()
    scalar.backward()

    assert len(logits) == len(case.names("expected/out."))
    for level, got in enumerate(logits):
        case.check(f"out.{level}", got)
    case.check("scalar", scalar)
    gradients: dict[str, nn.Parameter | torch.Tensor] = dict(head.named_parameters()) | {"x": x}
    for name in case.names("expected/grad."):
        gradient = gradients[case.rename(name)].grad
        assert gradient is not None
        case.check(f"grad.{name}", gradient)
