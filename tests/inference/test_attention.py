"""Captured attention equals the weights that timm's own unfused attention applies to the values."""

import pytest
import torch
from torch import Tensor

from franca.errors import FrancaError
from franca.inference.attention import no_attention, observe
from franca.models import FrancaModel, random_model
from tests.conftest import MakeParams

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.2, 0.3)
# A class token alone, with registers, with rotary positions of two kinds, with keys shared by heads.
NAMES = (
    "vit_tiny_patch16_224",
    "vit_small_patch14_reg4_dinov2",
    "eva02_tiny_patch14_224",
    "vit_small_patch16_dinov3",
    "vit_base_patch16_sapiens2",
)


def make_images(height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (2, 3, height, width), generator=generator, dtype=torch.uint8)


def weights(model: FrancaModel, images: Tensor, block: int) -> Tensor:
    """Attention (B, heads, N, N) as the block computes it without the fused kernel."""
    layer = model.backbone.blocks[block].attn
    layer.fused_attn = False
    caught: list[Tensor] = []
    hook = layer.attn_drop.register_forward_hook(lambda module, args, output: caught.append(output))
    model(images)
    hook.remove()
    return caught[0]


def check(model: FrancaModel, block: int | None, depth: int) -> None:
    size = model.patch_size
    images = make_images(2 * size, 3 * size)
    features, attention = observe(model, images, block)
    assert attention is not None
    expected = weights(model, images, depth - 1 if block is None else block)[:, :, 0]
    assert attention.shape == (2, expected.shape[1], 2, 3)
    prefix = model.backbone.num_prefix_tokens
    torch.testing.assert_close(attention.flatten(2), expected[:, :, prefix:], atol=1e-5, rtol=1e-4)
    own = model(images) if block is None else model.forward_intermediates(images, [block])[0]
    torch.testing.assert_close(features, own)


@pytest.mark.parametrize("name", NAMES)
def test_any_plain_transformer(name: str) -> None:
    torch.manual_seed(0)
    model = FrancaModel(name, 28 if "patch14" in name else 32, MEAN, STD)
    check(model, None, len(model.backbone.blocks))


@pytest.mark.parametrize("block", [None, 0, 1, -2])
def test_every_block_of_ours(block: int | None, tiny_params: MakeParams) -> None:
    model = random_model(tiny_params({"base.backbone.registers": 3}).base)
    model.remove_position(torch.randn(2, 2, 32))
    check(model, block, 2)
    layer = model.backbone.blocks[-1].attn
    assert not layer._forward_pre_hooks and not layer.q_norm._forward_hooks and not layer.k_norm._forward_hooks


def test_a_class_token_that_looks_at_one_patch(tiny_params: MakeParams) -> None:
    model = random_model(tiny_params().base)
    block = model.backbone.blocks[-1]
    # Queries of ones, and keys as large as a patch is bright.
    block.norm1 = torch.nn.Identity()
    block.attn.qkv.weight.zero_()
    block.attn.qkv.bias.zero_()
    block.attn.qkv.bias[:32] = 1
    block.attn.qkv.weight[32:64] = torch.eye(32)
    for part in (model.backbone.blocks[0], block):
        part.ls1.gamma.zero_()
        part.ls2.gamma.zero_()
    model.backbone.pos_embed.zero_()
    model.backbone.patch_embed.proj.weight.fill_(1.0)
    images = torch.full((1, 3, 32, 32), 20, dtype=torch.uint8)
    images[:, :, 8:16, 24:] = 250
    attention = observe(model, images, None)[1]
    assert attention is not None
    assert attention.flatten(2).argmax(2).tolist() == [[7, 7]]
    torch.testing.assert_close(attention[0, :, 1, 3], torch.ones(2))


def test_what_has_no_attention_map(tiny_params: MakeParams) -> None:
    model = FrancaModel("vit_wee_patch16_reg1_gap_256", 32, MEAN, STD)
    assert no_attention(model, None) == "no attention map: no class token"
    features, attention = observe(model, make_images(32, 32), None)
    assert attention is None and features.patches.shape == (2, 2, 2, model.width)

    ours = random_model(tiny_params().base)
    ours.backbone.blocks[0].attn = torch.nn.Identity()
    assert no_attention(ours, 0) == "no attention map: a Identity has none that can be captured"
    assert no_attention(ours, 1) is None
    for block in (2, -3):
        with pytest.raises(FrancaError, match=rf"no such block: {block}; the model has 2, 0 to 1"):
            no_attention(ours, block)
