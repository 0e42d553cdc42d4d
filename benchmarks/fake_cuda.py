"""CUDA tensors without contents on machines without a GPU: a whole training step runs, except for its kernels.

Fake tensors have a device, a dtype and a shape. PyTorch raises an error for operators that mix devices, return a value
to the host (`item`, `bool`) or have an output whose shape depends on values (`nonzero`). This module adds the rest:
copies for which the host waits raise an error as well, autocast is on although there is no GPU, attention uses the
flash kernel, and the backward pass runs without the autograd engine, which needs the CUDA driver for its streams.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from franca.params import Params
from franca.pretrain.network import Network
from franca.pretrain.setup import make_networks

DEVICE = torch.device("cuda:0")

_COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
_attention = F.scaled_dot_product_attention


class HostWaitError(Exception):
    """An operator for which the host would wait for the device."""


@contextmanager
def fake_cuda() -> Iterator[FakeTensorMode]:
    """Return a context in which all new tensors are fake, including those on `DEVICE`."""
    with (
        FakeTensorMode() as mode,
        mock.patch.object(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False),
        mock.patch.object(torch.cuda, "is_bf16_supported", lambda *args, **kwargs: True),
        mock.patch.object(F, "scaled_dot_product_attention", _flash_attention),
        mock.patch.object(Tensor, "backward", backward),
        mock.patch.object(nn.Module, "to", _move),
    ):
        yield mode


def fake(mode: FakeTensorMode, tree: Any) -> Any:
    """Return a tree of containers with its tensors replaced by fake ones on the same devices."""
    return tree_map_only(Tensor, mode.from_tensor, tree)


def fake_networks(params: Params, device: torch.device = DEVICE) -> tuple[Network, Network]:
    """Return student and teacher with fake weights; call this within a fake mode."""
    with unset_fake_temporarily(), torch.device("meta"):  # timm's constructor reads values of small CPU tensors
        networks = make_networks(params, torch.device("meta"))
    for network in networks:
        _move(network, device)
    return networks


def _move(module: nn.Module, device: torch.device) -> nn.Module:
    """Replacement for `Module.to`, which cannot exchange the contents of fake parameters."""
    for child in module.modules():
        for name, own in list(child.named_parameters(recurse=False)):
            weights = torch.empty(own.shape, dtype=own.dtype, device=device)
            setattr(child, name, nn.Parameter(weights, requires_grad=own.requires_grad))
    return module


class NoHostWaits(TorchDispatchMode):
    """Raises HostWaitError for operators that take or return tensors of both host and device.

    Copies to the device with `non_blocking=True` are allowed (whether their source is pinned is not checked), and so
    are scalar CPU tensors as operands, which become arguments of the kernel. Creating a tensor on the device from a
    Python number or list is a blocking copy from pageable memory, and raises.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = _tensors((args, kwargs))
        touched = [*given, *_tensors(result)]
        copies = func in _COPIES
        devices = {_device_type(x) for x in touched if copies or x.dim()}
        if len(devices) > 1 and not (copies and _is_upload(given[-1], args, kwargs or {})):
            about = ", ".join(f"{_device_type(x)} {tuple(x.shape)}" for x in touched)
            raise HostWaitError(f"{func} makes the host wait for the device: {about}")
        return result


def _tensors(tree: Any) -> list[Tensor]:
    return [x for x in tree_leaves(tree) if isinstance(x, Tensor)]


def _device_type(x: Tensor) -> str:
    # `x.device` would be dispatched as an operator.
    return x.fake_device.type if isinstance(x, FakeTensor) else x.device.type


def _is_upload(source: Tensor, args: Any, kwargs: Any) -> bool:
    return _device_type(source) == "cpu" and bool(kwargs.get("non_blocking", args[2] if len(args) > 2 else False))


def _flash_attention(query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Replacement for `scaled_dot_product_attention`, which without a GPU would choose plain matrix products."""
    if args or kwargs.get("attn_mask") is not None or not query.is_cuda or query.dtype == torch.float32:
        return _attention(query, key, value, *args, **kwargs)
    options = {"dropout_p": kwargs.get("dropout_p", 0.0), "is_causal": kwargs.get("is_causal", False)}
    found = torch.ops.aten._scaled_dot_product_flash_attention(query, key, value, **options, scale=kwargs.get("scale"))
    attended: Tensor = found[0]
    return attended


def backward(loss: Tensor) -> None:
    """Replacement for `Tensor.backward` that calls the nodes of the graph itself, without the autograd engine.

    Gradients are added to the leaves. Hooks are not called.
    """
    root: Any = loss.grad_fn
    waiting = _count_edges(root)
    gradients: dict[Any, dict[int, Tensor]] = defaultdict(dict)
    ready = [root]
    with torch.no_grad():
        gradients[root][0] = torch.ones_like(loss)
        while ready:
            node = ready.pop()
            found = _call(node, gradients.pop(node, {}))
            for (following, place), gradient in zip(node.next_functions, found, strict=True):
                if following is None:
                    continue
                if gradient is not None:
                    known, gradient = gradients[following], _fitted(gradient, following._input_metadata[place])
                    known[place] = known[place] + gradient if place in known else gradient
                waiting[following] -= 1
                if not waiting[following]:
                    ready.append(following)


def _count_edges(root: Any) -> dict[Any, int]:
    """Return how many edges of the graph lead to each node."""
    count: dict[Any, int] = defaultdict(int)
    seen, stack = {root}, [root]
    while stack:
        for node, _ in stack.pop().next_functions:
            if node is not None:
                count[node] += 1
                if node not in seen:
                    seen.add(node)
                    stack.append(node)
    return count


def _call(node: Any, given: dict[int, Tensor]) -> tuple[Tensor | None, ...]:
    """Return the gradients of a node's inputs; `given` are the gradients of its outputs, by index."""
    edges = len(node.next_functions)
    if not given:
        return (None,) * edges
    if hasattr(node, "variable"):  # a leaf
        leaf = node.variable
        leaf.grad = given[0] if leaf.grad is None else leaf.grad + given[0]
        return ()
    # A torch.autograd.Function is called through `apply`, which returns None for arguments that are not tensors.
    call: Callable[..., Any] = getattr(node, "apply", node)
    found = call(*(given.get(place) for place in range(len(node._input_metadata))))
    if not isinstance(found, tuple):
        return (found,)
    assert not any(x is not None for x in found[edges:]), f"{node}: arguments that are not tensors must come last"
    return found[:edges]


def _fitted(gradient: Tensor, metadata: Any) -> Tensor:
    """Sum over broadcast dimensions and convert the dtype, as the engine does between nodes."""
    return gradient.sum_to_size(metadata.shape).to(metadata.dtype)
