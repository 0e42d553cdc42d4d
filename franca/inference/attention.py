"""What the class token attends to, read off a block while it runs."""

from typing import Any

import torch
from timm.layers import Attention, AttentionRope, apply_rot_embed_cat
from timm.models.eva import EvaAttention
from torch import Tensor

from franca.errors import FrancaError
from franca.models import Features, FrancaModel


def no_attention(model: FrancaModel, block: int | None) -> str | None:
    """Why a block, the last if None, has no attention map of the class token, or None where it has one.

    Raises FrancaError for a block that is not there.
    """
    blocks = model.backbone.blocks
    if block is not None and not -len(blocks) <= block < len(blocks):
        raise FrancaError(f"no such block: {block}; the model has {len(blocks)}, 0 to {len(blocks) - 1}")
    if model.backbone.cls_token is None:
        return "no attention map: no class token"
    layer = getattr(blocks[-1 if block is None else block], "attn", None)
    if not isinstance(layer, Attention | AttentionRope | EvaAttention):
        return f"no attention map: none can be read off a {type(layer or blocks[-1]).__name__}"
    return None


def observe(model: FrancaModel, images: Tensor, block: int | None) -> tuple[Features, Tensor | None]:
    """Features of a block and the share of the class token's attention that each patch gets there.

    `images` are uint8 (B, 3, H, W). The attention is float32 (B, heads, h, w), None where the block has none; over
    all tokens each head's shares add up to 1. `block` None stands for the model's own features and the last block.
    Raises FrancaError for a block that is not there.
    """
    if no_attention(model, block):
        return _features(model, images, block), None
    layer = model.backbone.blocks[-1 if block is None else block].attn
    caught: dict[str, Any] = {}

    def catch_rope(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        caught["rope"] = kwargs.get("rope")

    # Queries and keys pass through these two in every kind of attention, which are identities where nothing is to do.
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
    """Softmax of one query (B, heads, 1, d) over keys (B, groups, N, d): (B, heads, N)."""
    query, keys = query.float(), keys.float()
    if rope is not None:
        turned = apply_rot_embed_cat(keys[:, :, prefix:], rope, half=layer.rotate_half)
        keys = torch.cat([keys[:, :, :prefix], turned], dim=2)
    keys = keys.repeat_interleave(query.shape[1] // keys.shape[1], dim=1)
    return (query * layer.scale @ keys.transpose(2, 3)).softmax(dim=-1)[:, :, 0]
