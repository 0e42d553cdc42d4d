from functools import partial

import pytest
import torch
from timm.layers import Mlp, SwiGLUPacked
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from franca.models.backbone import Backbone, nesting_levels, resize_positions, timm_arguments
from franca.models.stochastic_depth import draw_kept, residual
from tests.conftest import MakeParams


def make_backbone(tiny_params: MakeParams, drop_path: float = 0.0, **changes: object) -> Backbone:
    base = tiny_params({f"base.backbone.{name}": value for name, value in changes.items()}).base
    torch.manual_seed(0)
    backbone = Backbone(base.backbone, base.image_size, drop_path)
    for parameter in backbone.parameters():  # away from the values at which a part of the network does nothing
        nn.init.normal_(parameter, std=0.1)
    return backbone.eval()


def make_images(height: int = 32, width: int = 32, count: int = 2) -> Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(1))


def test_levels_halve_down_to_a_sixteenth() -> None:
    assert nesting_levels(192) == (12, 24, 48, 96, 192)


@pytest.mark.parametrize("ffn", ["mlp", "swiglu"])
def test_a_stock_timm_model_reads_the_weights(tiny_params: MakeParams, ffn: str) -> None:
    backbone = make_backbone(tiny_params, ffn=ffn)
    base = tiny_params({"base.backbone.ffn": ffn}).base
    stock = VisionTransformer(
        **timm_arguments(base.backbone, base.image_size),
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        mlp_layer=SwiGLUPacked if ffn == "swiglu" else Mlp,  # type: ignore[arg-type]
        act_layer=nn.SiLU if ffn == "swiglu" else nn.GELU,
    ).eval()
    weights = backbone.state_dict()
    del weights["mask_token"]
    stock.load_state_dict(weights)
    images = make_images()
    torch.testing.assert_close(backbone.forward_features(images), stock.forward_features(images))


def test_what_a_mask_covers_is_not_seen(tiny_params: MakeParams) -> None:
    backbone, images = make_backbone(tiny_params), make_images()
    masks = torch.zeros(2, 16, dtype=torch.bool)
    masks[:, 5] = True
    plain, masked = backbone.forward_features(images), backbone.forward_features(images, masks)
    changed = images.clone()
    changed[:, :, 8:16, 8:16] += 1
    torch.testing.assert_close(backbone.forward_features(changed, masks), masked)
    assert not torch.allclose(backbone.forward_features(changed), plain)
    assert not torch.allclose(masked, plain)
    torch.testing.assert_close(backbone.forward_features(images, torch.zeros_like(masks)), plain)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (48, 16), (8, 64), (136, 136)])
def test_images_of_any_whole_number_of_patches(tiny_params: MakeParams, height: int, width: int) -> None:
    backbone = make_backbone(tiny_params, registers=2)
    tokens = backbone.forward_features(make_images(height, width))
    assert tokens.shape == (2, 1 + 2 + height * width // 64, 32)
    assert torch.isfinite(tokens).all()


def test_images_of_one_batch_do_not_mix(tiny_params: MakeParams) -> None:
    backbone, images = make_backbone(tiny_params), make_images(count=4)
    alone = torch.cat([backbone.forward_features(image[None]) for image in images])
    torch.testing.assert_close(backbone.forward_features(images), alone, rtol=1e-4, atol=1e-5)


def test_gradients_reach_every_parameter(tiny_params: MakeParams) -> None:
    backbone = make_backbone(tiny_params, registers=2)
    masks = torch.arange(16).expand(2, 16) < 4
    backbone.forward_features(make_images(), masks).square().sum().backward()
    for name, parameter in backbone.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_stochastic_depth_is_off_in_evaluation(tiny_params: MakeParams) -> None:
    backbone, images = make_backbone(tiny_params, drop_path=0.5), make_images(count=8)
    still = make_backbone(tiny_params)
    torch.testing.assert_close(backbone.forward_features(images), still.forward_features(images))
    everything = [torch.arange(8 * 17)]
    backbone.train()
    (tokens,) = backbone([images], None, everything)
    assert not torch.allclose(tokens, still([images], None, everything)[0])


@pytest.mark.parametrize(("batch", "rate", "kept"), [(8, 0.25, 6), (7, 0.5, 3), (2, 0.9, 1), (1, 0.9, 1)])
def test_an_exact_number_keeps_the_branch(batch: int, rate: float, kept: int) -> None:
    x = torch.zeros(batch, 3)
    (drawn,) = draw_kept(1, batch, rate, x.device)
    (out,) = residual([x], lambda y: [torch.ones_like(y[0])], [drawn])
    assert sorted(out[:, 0].tolist()) == pytest.approx([0] * (batch - kept) + [batch / kept] * kept)


def test_gradients_of_a_dropped_branch_are_those_of_plain_indexing() -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(shape, generator=generator, requires_grad=True) for shape in ((7, 3, 4), (4, 4)))
    (kept,) = draw_kept(1, 7, 0.4, x.device)
    plain = x.index_add(0, kept.samples, x[kept.samples] @ weight, alpha=kept.scale)
    (out,) = residual([x], lambda y: [y[0] @ weight], [kept])
    torch.testing.assert_close(out, plain)
    gradient = torch.randn(out.shape, generator=generator)
    for got, expected in zip(
        torch.autograd.grad(out, (x, weight), gradient), torch.autograd.grad(plain, (x, weight), gradient), strict=True
    ):
        torch.testing.assert_close(got, expected)


def test_each_branch_of_each_block_draws_for_itself() -> None:
    torch.manual_seed(0)
    draws = draw_kept(200, 10, 0.3, torch.device("cpu"))
    counts = torch.stack([draw.samples for draw in draws]).flatten().bincount(minlength=10)
    assert all(len(set(draw.samples.tolist())) == 7 for draw in draws)
    assert ((counts - 140).abs() < 5 * (200 * 0.3 * 0.7) ** 0.5).all()


def test_activation_checkpointing_changes_no_gradient(tiny_params: MakeParams) -> None:
    backbone, images = make_backbone(tiny_params, drop_path=0.5).train(), make_images(count=6)
    found = []
    for recompute in (False, True):
        backbone.set_grad_checkpointing(recompute)
        torch.manual_seed(1)
        (tokens,) = backbone([images], None, [torch.arange(6 * 17)])
        loss = tokens.square().sum()
        found.append(torch.autograd.grad(loss, list(backbone.blocks.parameters())))
    assert all(map(torch.equal, *found))


def test_positions_of_the_same_grid_stay() -> None:
    positions = torch.randn(1, 17, 8)
    torch.testing.assert_close(resize_positions(positions, 4), positions)
    larger = resize_positions(positions, 7)
    assert larger.shape == (1, 50, 8)
    assert torch.equal(larger[:, 0], positions[:, 0])


@pytest.mark.parametrize(("drop_path", "registers"), [(0.0, 0), (0.5, 0), (0.5, 3)])
def test_selected_tokens_equal_those_of_the_whole(tiny_params: MakeParams, drop_path: float, registers: int) -> None:
    backbone = make_backbone(tiny_params, drop_path, registers=registers).train()
    images = make_images(count=6)
    wanted, first = torch.tensor([0, 3, 4, 20, 51, 30]), next(backbone.blocks.parameters())
    found = []
    for some in (torch.arange(6 * (17 + registers)), wanted):
        torch.manual_seed(1)
        (tokens,) = backbone([images], None, [some])
        found.append(tokens if some is wanted else tokens[wanted])
        found.append(torch.autograd.grad(found[-1].square().sum(), first)[0])
    torch.testing.assert_close(found[2], found[0])
    torch.testing.assert_close(found[3], found[1], rtol=1e-4, atol=1e-5)


def test_sets_of_crops_do_not_see_each_other(tiny_params: MakeParams) -> None:
    backbone = make_backbone(tiny_params)
    sets = [make_images(count=4), make_images(16, 16, count=6)]
    masks = torch.rand(4, 16, generator=torch.Generator().manual_seed(0)) < 0.3
    wanted = [torch.arange(4 * 17), torch.tensor([0, 5, 29])]
    together = backbone(sets, masks, wanted)
    torch.testing.assert_close(together[0], backbone.forward_features(sets[0], masks).flatten(0, 1))
    torch.testing.assert_close(together[1], backbone.forward_features(sets[1]).flatten(0, 1)[wanted[1]])


@pytest.mark.parametrize("resampling", ["offset", "antialias"])
def test_positions_of_other_sizes_are_the_same_while_training(tiny_params: MakeParams, resampling: str) -> None:
    backbone = make_backbone(tiny_params, position_resampling=resampling)
    expected, weights = backbone.positions(2, 3), backbone.pos_embed
    assert weights is not None
    gradient = torch.randn(expected.shape, generator=torch.Generator().manual_seed(0))
    gradients = [torch.autograd.grad(expected, weights, gradient)[0]]
    got = backbone.train().positions(2, 3)
    torch.testing.assert_close(got, expected)
    gradients.append(torch.autograd.grad(got, weights, gradient)[0])
    torch.testing.assert_close(*gradients)
