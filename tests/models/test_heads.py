import pytest
import torch

from franca.models.heads import ContrastiveHead, NestedHead, Prototypes
from tests.conftest import MakeParams

DIM = 64


def logits_of(head: NestedHead, x: torch.Tensor) -> list[torch.Tensor]:
    return [level.hidden @ level.prototypes.T for level in head(x)]


def make_head(tiny_params: MakeParams, **changes: object) -> NestedHead:
    heads = tiny_params({f"pretrain.heads.{name}": value for name, value in changes.items()}).pretrain.heads
    torch.manual_seed(0)
    return NestedHead(DIM, heads)


@pytest.mark.parametrize("nesting", ["project", "slice"])
def test_each_level_has_its_share_of_the_prototypes(tiny_params: MakeParams, nesting: str) -> None:
    head = make_head(tiny_params, nesting=nesting, prototypes=100)
    shapes = [tuple(logits.shape) for logits in logits_of(head, torch.randn(5, DIM))]
    assert head.levels == (4, 8, 16, 32, 64)
    assert shapes == [(5, 6), (5, 12), (5, 25), (5, 50), (5, 100)]


@pytest.mark.parametrize("sharing", ["dedicated", "shared"])
def test_a_slice_sees_its_first_dimensions_alone(tiny_params: MakeParams, sharing: str) -> None:
    head = make_head(tiny_params, nesting="slice", sharing=sharing)
    x = torch.randn(5, DIM, requires_grad=True)
    for width, logits in zip(head.levels, logits_of(head, x), strict=True):
        (gradient,) = torch.autograd.grad(logits.square().sum(), x, retain_graph=True)
        assert (gradient[:, :width] != 0).all()
        assert (gradient[:, width:] == 0).all()


def test_a_shared_head_is_dedicated_heads_with_tied_weights(tiny_params: MakeParams) -> None:
    shared = make_head(tiny_params, nesting="slice", sharing="shared")
    dedicated = make_head(tiny_params, nesting="slice", sharing="dedicated")
    own = shared.state_dict()
    tied = {}
    for level, (width, count) in enumerate(zip(shared.levels, shared.counts, strict=True)):
        for key, value in own.items():
            name = key.replace(".0.", f".{level}.", 1)
            if key == "mlps.0.0.weight":
                value = value[:, :width]
            elif key.startswith("last_layers"):
                value = value[:count]
            tied[name] = value
    dedicated.load_state_dict(tied)
    x = torch.randn(5, DIM)
    for got, expected in zip(logits_of(shared, x), logits_of(dedicated, x), strict=True):
        torch.testing.assert_close(got, expected)
    assert len(own) == len(dedicated.state_dict()) / 5


def test_without_nesting_there_is_one_level(tiny_params: MakeParams) -> None:
    head = make_head(tiny_params, nesting="none")
    (logits,) = logits_of(head, torch.randn(5, DIM))
    assert head.levels == (DIM,) and logits.shape == (5, 64)
    assert not any(key.startswith("projections") for key in head.state_dict())


def test_prototypes_start_with_magnitude_one(tiny_params: MakeParams) -> None:
    for layer in make_head(tiny_params).last_layers:
        assert isinstance(layer, Prototypes)
        assert torch.equal(layer.weight_g, torch.ones_like(layer.weight_g))
        bound = layer.weight_v.shape[1] ** -0.5
        assert layer.weight_v.abs().max() <= bound
        # The length of a direction changes nothing.
        before = layer()
        torch.testing.assert_close(before.norm(dim=1), torch.ones(len(before)))
        with torch.no_grad():
            layer.weight_v.mul_(7)
        torch.testing.assert_close(layer(), before)
        torch.testing.assert_close(layer(3), before[:3])


@pytest.mark.parametrize(("init", "std"), [("fixed", 0.02), ("fan_in", 1 / 8)])
def test_spread_of_initial_weights(tiny_params: MakeParams, init: str, std: float) -> None:
    weight = make_head(tiny_params, init=init).projections[-1].weight
    assert isinstance(weight, torch.Tensor)
    # Cut at two standard deviations, a normal distribution has 0.88 of its spread.
    assert float(weight.detach().std()) == pytest.approx(0.88 * std, rel=0.05)
    assert float(weight.detach().abs().max()) <= 2 * std


@pytest.mark.parametrize(("nesting", "widths"), [("slice", (4, 8, 16, 32, 64)), ("project", (64,)), ("none", (64,))])
def test_contrastive_embeddings_see_the_slices_of_their_levels(
    tiny_params: MakeParams, nesting: str, widths: tuple[int, ...]
) -> None:
    head = ContrastiveHead(DIM, tiny_params({"pretrain.heads.nesting": nesting}).pretrain.heads)
    x = torch.randn(5, DIM, requires_grad=True)
    embeddings = head(x)
    assert len(embeddings) == len(widths)
    torch.testing.assert_close(embeddings[-1], torch.nn.Sequential(*head)(x))
    for width, level in zip(widths, embeddings, strict=True):
        (gradient,) = torch.autograd.grad(level.square().sum(), x, retain_graph=True)
        assert (gradient[:, :width] != 0).all()
        assert (gradient[:, width:] == 0).all()
