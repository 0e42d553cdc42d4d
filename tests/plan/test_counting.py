"""What is counted on fake tensors is what autograd really saves, and the FLOPs of the textbook's formula."""

from functools import partial
from typing import Any

import pytest
import torch
from timm.layers import SwiGLUPacked
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from franca.models.backbone import StochasticBlock
from franca.models.stochastic_depth import draw_kept
from franca.params import Params
from franca.plan.counting import count_student, head_rows, teacher_flops, undropped_flops
from franca.plan.estimate import COMPILED_SAVED
from franca.pretrain.network import Network
from tests.conftest import MakeParams

IMAGES = 4
# Every crop has more than 256 patches: the CPU runs them through a fused kernel, too.
SHAPES = {
    "mlp": {"base.backbone.ffn": "mlp", "base.image_size": 136, "pretrain.crops.local_size": 128},
    "swiglu, drop 0.4": {
        "base.backbone.ffn": "swiglu",
        "base.image_size": 136,
        "base.backbone.depth": 4,
        "pretrain.crops.local_size": 128,
        "pretrain.drop_path": 0.4,
    },
    "no local crops, wide heads": {
        "base.image_size": 136,
        "pretrain.crops.local_count": 0,
        "pretrain.drop_path": 0.1,
        "pretrain.heads.hidden_dim": 512,
        "pretrain.heads.nesting": "none",
    },
}


def bytes_saved(params: Params, bf16: bool, checkpointed: bool) -> int:
    """Return what autograd saves in a forward pass on the CPU, parameters left out."""
    torch.manual_seed(0)
    network = Network(params.base, params.pretrain).train()
    saved: dict[int, Tensor] = {}

    def recomputed(forward: Any, x: list[Tensor], *others: Any) -> Any:
        # A checkpoint keeps tensors within lists by reference, so the hooks below do not see them.
        saved.update({y.untyped_storage().data_ptr(): y for y in x})
        return checkpoint(forward, x, *others, use_reentrant=False)

    for block in network.backbone.blocks:
        if checkpointed:
            block.forward = partial(recomputed, block.forward)
    side, crops = params.base.image_size, params.pretrain.crops
    patches = (side // params.base.backbone.patch_size) ** 2
    local_crops = torch.randn(crops.local_count * IMAGES, 3, crops.local_size, crops.local_size)
    masks = torch.zeros(2 * IMAGES, patches, dtype=torch.bool)
    owned = {x.untyped_storage().data_ptr() for x in network.parameters()}

    def pack(x: Tensor) -> Tensor:
        if (key := x.untyped_storage().data_ptr()) not in owned:
            saved[key] = x
        return x

    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x)
    with hooks, torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        network(torch.randn(2 * IMAGES, 3, side, side), torch.arange(head_rows(params, IMAGES)[1]), masks, local_crops)
    return sum(x.untyped_storage().nbytes() for x in saved.values())


@pytest.mark.parametrize(("shape", "bf16"), list(zip(SHAPES, (False, True, True), strict=True)))
def test_saved_bytes_are_those_of_a_real_pass(tiny_params: MakeParams, shape: str, bf16: bool) -> None:
    params = tiny_params(SHAPES[shape])
    network, counted = Network(params.base, params.pretrain), count_student(params, IMAGES, bf16)
    assert counted.parameters == sum(x.numel() for x in network.parameters())
    assert counted.block_parameters == sum(x.numel() for x in network.backbone.blocks.parameters())
    assert counted.saved + counted.copies == pytest.approx(bytes_saved(params, bf16, False), rel=0.1)
    outside = counted.saved - counted.block_saved + counted.copies - counted.block_copies
    assert outside + counted.inputs == pytest.approx(bytes_saved(params, bf16, True), rel=0.1)


def test_flops_are_those_of_the_formula(tiny_params: MakeParams) -> None:
    depth, width, tokens = 6, 64, 1 + 17**2
    changes = {"base.backbone.depth": depth, "base.backbone.embed_dim": width, "pretrain.drop_path": 0.5}
    params = tiny_params(SHAPES["no local crops, wide heads"] | changes)
    block = 2 * tokens * (12 * width**2 + 2 * tokens * width)
    # The last block's MLP runs for class tokens and masked patches alone.
    spared = 2 * 8 * width**2 * (2 * IMAGES * tokens - 2 * IMAGES - head_rows(params, IMAGES).patches)
    blocks = 2 * IMAGES * depth * block - spared
    student = count_student(params, IMAGES, True)
    assert student.block_flops == pytest.approx(blocks / 2, rel=0.1)
    outside = student.flops - student.block_flops
    assert undropped_flops(params, IMAGES) == pytest.approx(blocks + outside, rel=0.001)
    assert teacher_flops(params, IMAGES) == pytest.approx(blocks + outside, rel=0.001)


@pytest.mark.slow
def test_share_of_activations_that_compiled_blocks_save() -> None:
    """torch.compile's partitioner decides what to save, whatever then makes the kernels."""
    saved = {}
    for how in ("eager", "aot_eager_decomp_partition"):
        torch.manual_seed(0)
        keywords: Any = {
            "mlp_ratio": 2 * 344 / 128,
            "qkv_bias": True,
            "init_values": 1e-5,
            "norm_layer": partial(nn.LayerNorm, eps=1e-6),
            "mlp_layer": SwiGLUPacked,
            "act_layer": nn.SiLU,
        }
        block = StochasticBlock(128, 2, **keywords).train()
        if how != "eager":
            block.compile(backend=how)
        sizes: dict[int, int] = {}

        def pack(x: Tensor, sizes: dict[int, int] = sizes) -> Tensor:
            if not isinstance(x, nn.Parameter):
                sizes[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        attention, mlp = draw_kept(2, 16, 0.4, torch.device("cpu"))
        hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x)
        with hooks, torch.autocast("cpu", torch.bfloat16):
            (output,) = block([torch.randn(16, 257, 128, requires_grad=True)], [(attention, mlp)])
        assert len(output) == 16
        saved[how] = sum(sizes.values())
    assert saved["aot_eager_decomp_partition"] / saved["eager"] == pytest.approx(COMPILED_SAVED, abs=0.05)
