"""What the networks save for the backward pass and how many FLOPs they take, counted and not derived.

The networks' own forward pass runs on fake CUDA tensors: shapes, dtypes and storages, but no memory and no GPU. So the
numbers follow every change of the networks. A network of two blocks says what one of any depth takes, since all
blocks but the last take the same: half a second for a ViT-g.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from franca.data.views.masks import official_buffer
from franca.params import Params
from franca.pretrain.network import Network

DEVICE = "cuda"


class Forward(NamedTuple):
    """A forward pass of the student or the teacher over the crops of some images; memory in bytes."""

    parameters: int
    """number of weights"""
    block_parameters: int
    """of these, those of blocks"""
    flops: int
    """multiplications and additions of matrix products, convolutions and attention"""
    block_flops: int
    """of these, those of blocks"""
    saved: int
    """saved for the backward pass, parameters and low-precision copies of parameters left out"""
    block_saved: int
    """of these, what blocks save"""
    copies: int
    """copies of parameters that autocast makes and matrix products save"""
    block_copies: int
    """of these, those of blocks' parameters"""
    inputs: int
    """inputs of all blocks: what activation checkpointing saves in place of `block_saved`"""
    largest_block: int
    """most that one block saves in one call"""


class Rows(NamedTuple):
    """Rows of the heads' inputs for some images."""

    classes: int
    """class tokens of global and local crops"""
    patches: int
    """masked patches: the most that stratified masks can have"""


def head_rows(params: Params, images: int) -> Rows:
    grid = params.base.image_size // params.base.backbone.patch_size
    masks, crops = params.pretrain.masks, params.pretrain.crops
    group = min(images, params.pretrain.losses.koleo_images)
    return Rows((2 + crops.local_count) * images, official_buffer(images // group, group, grid, masks))


def count_student(params: Params, images: int, bf16: bool) -> Forward:
    """Count the student's forward pass over the global and local crops of `images` images."""
    # Fake tensors have a real device, which meta tensors have not: autocast acts by it.
    with FakeTensorMode(allow_non_fake_inputs=True), autocast(bf16):
        return _count(params, images, DEVICE, teacher=False)


def teacher_flops(params: Params, images: int) -> int:
    """Count the FLOPs of the teacher's forward pass over the global crops of `images` images."""
    return _count(params, images, "meta", teacher=True).flops


def undropped_flops(params: Params, images: int) -> int:
    """Count the FLOPs of the student's forward pass without stochastic depth."""
    pretrain = params.pretrain.model_copy(update={"drop_path": 0.0})
    return _count(params.model_copy(update={"pretrain": pretrain}), images, "meta", teacher=False).flops


def _count(params: Params, images: int, device: str, teacher: bool) -> Forward:
    depth = params.base.backbone.depth
    backbone = params.base.backbone.model_copy(update={"depth": min(depth, 2)})
    base = params.base.model_copy(update={"backbone": backbone})
    side, crops = base.image_size, params.pretrain.crops
    with unset_fake_temporarily(), torch.device("meta"):
        network = Network(base, params.pretrain)  # its constructor reads values, which fake tensors have not
    network.requires_grad_(not teacher).train(not teacher).to_empty(device=device)
    global_crops = torch.empty(2 * images, 3, side, side, device=device)
    masked = torch.empty(head_rows(params, images).patches, dtype=torch.int64, device=device)
    more: tuple[Tensor, ...] = ()
    if not teacher:
        masks = torch.empty(2 * images, (side // backbone.patch_size) ** 2, dtype=torch.bool, device=device)
        local = (crops.local_count * images, 3, crops.local_size, crops.local_size)
        more = (masks, torch.empty(local, device=device))
    with fused_attention(), _Counter(network) as counter:
        network(global_crops, masked, *more)
    return counter.result(depth)


class _Counter:
    """Counts FLOPs and unique storages that autograd saves, in all and by each block."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._flops = FlopCounterMode(display=False)
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda x: x)
        self._owned = {parameter.untyped_storage()._cdata for parameter in network.parameters()}
        # Storages are kept, so that no other one gets the address of one that was counted.
        self._seen: dict[int, Any] = {}
        self._whole = Counter[str]()
        self._blocks = {block: Counter[str]() for block in network.backbone.blocks}
        self._start = Counter[str]()
        self._largest_block = 0

    def __enter__(self) -> "_Counter":
        for block in self._blocks:
            block.register_forward_pre_hook(self._before)
            block.register_forward_hook(self._after)
        self._flops.__enter__()
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._hooks.__exit__(*error)
        self._flops.__exit__(*error)

    def _pack(self, x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage._cdata not in self._owned and storage._cdata not in self._seen:
            self._seen[storage._cdata] = storage
            self._whole["copies" if _is_copied_parameter(x) else "saved"] += storage.nbytes()
        return x

    def _now(self) -> Counter[str]:
        return self._whole + Counter(flops=self._flops.get_total_flops())

    def _before(self, block: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._start = self._now()
        self._blocks[block]["inputs"] += sum(x.untyped_storage().nbytes() for x in inputs[0])

    def _after(self, block: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        took = self._now() - self._start
        self._blocks[block] += took
        self._largest_block = max(self._largest_block, took["saved"])

    def result(self, depth: int) -> Forward:
        """Return the counts for a network of `depth` blocks: all but the last take what the first one took."""
        first, *others = self._blocks
        added = Counter({name: count * (depth - 1 - len(others)) for name, count in self._blocks[first].items()})
        blocks = sum(self._blocks.values(), added)
        whole = self._now() + added
        size = sum(x.numel() for x in first.parameters())
        return Forward(
            parameters=sum(x.numel() for x in self._network.parameters()) + size * (depth - 1 - len(others)),
            block_parameters=size * depth,
            flops=whole["flops"],
            block_flops=blocks["flops"],
            saved=whole["saved"],
            block_saved=blocks["saved"],
            copies=whole["copies"],
            block_copies=blocks["copies"],
            inputs=blocks["inputs"],
            largest_block=self._largest_block,
        )


def _is_copied_parameter(x: Tensor) -> bool:
    """Whether `x` is a parameter in another dtype: views and a cast are all that lies between them."""
    node = x.grad_fn
    while node is not None and node.name() in ("TBackward0", "ViewBackward0", "ToCopyBackward0"):
        node = node.next_functions[0][0]
    return node is not None and node.name() == "torch::autograd::AccumulateGrad"


class _FlashAttention(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        dtype = torch.get_autocast_dtype(DEVICE) if torch.is_autocast_enabled(DEVICE) else args[0].dtype
        return torch.ops.aten._scaled_dot_product_flash_attention(*(x.to(dtype) for x in args[:3]))[0]


def fused_attention() -> TorchFunctionMode:
    """Have attention on fake tensors run as flash attention, which torch chooses by the real GPU.

    The memory-efficient kernel, which a GPU takes for float32, saves the same tensors.
    """
    return _FlashAttention()


@contextmanager
def autocast(bf16: bool) -> Iterator[None]:
    """As `torch.autocast("cuda", torch.bfloat16)`, which switches itself off if there is no GPU."""
    before = torch.is_autocast_enabled(DEVICE), torch.get_autocast_dtype(DEVICE)
    torch.set_autocast_enabled(DEVICE, bf16)
    torch.set_autocast_dtype(DEVICE, torch.bfloat16)
    torch.autocast_increment_nesting()
    try:
        yield
    finally:
        if torch.autocast_decrement_nesting() == 0:
            torch.clear_autocast_cache()
        torch.set_autocast_enabled(DEVICE, before[0])
        torch.set_autocast_dtype(DEVICE, before[1])
