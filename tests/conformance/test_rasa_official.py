"""Case 10: removal of position from patch features."""

import pytest
import torch

from franca.models.planes import decompose
from franca.rasa import grid_positions, position_loss
from tests.conformance.conftest import Case


@pytest.mark.case("10_rasa")
def test_decomposition_loss_and_gradient(case: Case) -> None:
    x, last = case["input/x"], case["weight/pos_pred.weight"].requires_grad_()
    position, rest = decompose(x, last)
    case.check("decompose.x_pos", position)
    case.check("decompose.x_rest", rest)
    case.check("forward_pos_pred_on_raw_x", torch.sigmoid(x @ last.T))

    earlier = x
    for layer in range(case.parameters["n_pos_layers"]):
        earlier = decompose(earlier, case[f"weight/pre_pos_layers.{layer}.weight"])[1]
    case.check("forward_no_pos_pred.x_rest", earlier)
    position, rest = decompose(earlier, last)
    case.check("forward.x_pos_of_last_layer", position)
    case.check("forward.x_rest", rest)

    for name, part in zip(("x_pos", "x_rest"), decompose(x, case["input/weight_1d"]), strict=True):
        case.check(f"decompose_1d.{name}", part)

    side = case.parameters["side"]
    loss = position_loss(earlier, last, grid_positions(side, side))
    case.check("position_loss", loss)
    case.check("grad.pos_pred.weight", torch.autograd.grad(loss, last)[0])
