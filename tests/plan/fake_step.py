"""The forward half of a training step on fake CUDA tensors: what is alive, byte by byte, with no GPU."""

import weakref
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from franca.params import Params
from franca.plan.counting import DEVICE, autocast, fused_attention, head_rows
from franca.pretrain.network import Network, share_prototypes
from franca.pretrain.objective import Assigner, student_loss


class LiveBytes(TorchDispatchMode):
    """Bytes of all storages that are alive, and the most there were."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(output):
            if isinstance(tensor, Tensor) and (storage := tensor.untyped_storage())._cdata not in self._seen:
                self._seen.add(storage._cdata)
                self.live += storage.nbytes()
                weakref.finalize(storage, self._free, storage._cdata, storage.nbytes())
        self.peak = max(self.peak, self.live)
        return output

    def _free(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.live -= size


def forward_peak(params: Params, images: int, parts: int, bf16: bool) -> tuple[int, int]:
    """Return the peak in bytes of one part's forward pass and losses, and that of the assignment before it.

    Both include weights, crops and what the step before left, but no gradients and moments.
    """
    losses, crops, side = params.pretrain.losses, params.pretrain.crops, params.base.image_size
    part = images // parts
    rows = head_rows(params, part).patches
    patches = (side // params.base.backbone.patch_size) ** 2
    with torch.device("meta"):
        student = Network(params.base, params.pretrain).train()
        teacher = Network(params.base, params.pretrain).requires_grad_(False).eval()
    with FakeTensorMode(allow_non_fake_inputs=True), LiveBytes() as memory, fused_attention():
        student.to_empty(device=DEVICE), teacher.to_empty(device=DEVICE)
        inputs = [
            (
                torch.empty(2 * part, 3, side, side, device=DEVICE),
                torch.empty(rows, dtype=torch.int64, device=DEVICE),
                torch.empty(2 * part, patches, dtype=torch.bool, device=DEVICE),
                torch.empty(crops.local_count * part, 3, crops.local_size, crops.local_size, device=DEVICE),
            )
            for _ in range(parts)
        ]
        weights = torch.empty(rows, device=DEVICE)
        assigner = Assigner(losses, student.dino_head.counts).to(DEVICE)
        seen: Any = None
        for _ in range(2):  # outputs of the first step are still there when the second begins
            with torch.no_grad(), autocast(bf16):
                views = share_prototypes(teacher(one[0], one[1]) for one in inputs)
            memory.peak = 0
            targets = assigner(views, 0.04)
            assigned, memory.peak = memory.peak, 0
            with autocast(bf16):
                seen = student(*inputs[0])
            student_loss(seen, targets[0], weights, losses, student.dino_head.levels)
            used, seen = memory.peak, [level.prototypes.detach() for level in (*seen.dino, *seen.ibot)]
        return used, assigned
