"""Attention of the class token to the patches, captured by hooks while a block runs."""

from typing import Any

import torch
from timm.layers import Attention, AttentionRope, apply_rot_embed_cat
from timm.models.eva import EvaAttention
from torch import Tensor

from franca.errors import FrancaError
from franca.models import Features, FrancaModel


def no_attention(model: FrancaModel, block: int | None) -> str | None:
    """Return why a block has no attention map of the class token, or None if it has one.

    Args:
        model: The model.
        block: Index of the block, from the end if negative; None for the last.

    Raises:
        FrancaError: The model has no such block.
    """
    blocks = model.backbone.blocks
    if block is not None and not -len(blocks) <= block < len(blocks):
        raise FrancaError(f"no such block: {block}; the model has {len(blocks)}, 0 to {len(blocks) - 1}")
    if model.backbone.cls_token is None:
        return "no attention map: no class token"
    layer = getattr(blocks[-1 if block is None else block], "attn", None)
    if not isinstance(layer, Attention | AttentionRope | EvaAttention):
        return f"no attention map: a {type(layer or blocks[-1]).__name__} has none that can be captured"
    return None


def observe(model: FrancaModel, images: Tensor, block: int | None) -> tuple[Features, Tensor | None]:
    """Return the features of a block and the share of the class token's attention that each patch gets there.

    Args:
        model: The model.
        images: (B, 3, H, W) uint8.
        block: Index of the block; None for the features of the model and the attention of its last block.

    Returns:
        the features, and the attention (B, heads, h, w) float32, None if the block has none. The shares of a head add
        up to 1 over all tokens, so over the patches to less.

    Raises:
        FrancaError: The model has no such block.
    """
    if no_attention(model, block):
        return _features(model, images, block), None
    layer = model.backbone.blocks[-1 if block is None else block].attn
    # Fused attention never stores its weights: they are computed here from the block's queries and keys.
    caught: dict[str, Any] = {}

    def catch_rope(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        caught["rope"] = kwargs.get("rope")

    # Queries and keys pass through q_norm and k_norm in every kind of attention; without normalization they are
    # identities.
    hooks = [
        layer.register_forward_pre_hook(catch_rope, with_kwargs=True),
        layer.q_norm.register_forward_hook(lambda module, args, queries: caught.update(queries=queries)),
        layer.k_norm.register_forward_hook(lambda module, args, keys: caught.update(keys=keys)),
    ]
    try:
        features = _features(model, images, block)
    finally:
        for hook in hooks:
            hook.remove()
    prefix: int = model.backbone.num_prefix_tokens
    shares = _shares(layer, caught["queries"][:, :, :1], caught["keys"], caught["rope"], prefix)
    return features, shares[:, :, prefix:].unflatten(2, features.patches.shape[1:3])


def _features(model: FrancaModel, images: Tensor, block: int | None) -> Features:
    features: Features = model(images) if block is None else model.forward_intermediates(images, [block])[0]
    return features


def _shares(layer: Any, query: Tensor, keys: Tensor, rope: Tensor | None, prefix: int) -> Tensor:
    """Return the softmax of one query over all keys.

    Args:
        layer: The attention layer.
        query: (B, heads, 1, d), of the class token.
        keys: (B, groups, N, d); heads of a group share their keys.
        rope: Rotary position embedding of the patches, None if the block has none.
        prefix: Number of tokens before the patches; rotary embeddings leave them as they are.

    Returns:
        (B, heads, N) float32.
    """
    query, keys = query.float(), keys.float()
    if rope is not None:
        rotated = apply_rot_embed_cat(keys[:, :, prefix:], rope, half=layer.rotate_half)
        keys = torch.cat([keys[:, :, :prefix], rotated], dim=2)
    keys = keys.repeat_interleave(query.shape[1] // keys.shape[1], dim=1)
    return (query * layer.scale @ keys.transpose(2, 3)).softmax(dim=-1)[:, :, 0]
