"""timm's vision transformer with a mask token, the official interpolation of positions and stochastic depth."""

import math
from functools import partial
from typing import Any

import torch
from timm.layers import Mlp, SwiGLUPacked
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from franca.models.stochastic_depth import Kept, draw_kept, residual
from franca.params import Backbone as BackboneParams

LEVEL_DIVISORS = (16, 8, 4, 2, 1)
"""The embedding dimension divided by the width of each Matryoshka level."""


def nesting_levels(embed_dim: int) -> tuple[int, ...]:
    """Return the widths of the Matryoshka levels, narrowest first: D/16, D/8, D/4, D/2, D."""
    return tuple(embed_dim // divisor for divisor in LEVEL_DIVISORS)


def timm_arguments(params: BackboneParams, image_size: int) -> dict[str, Any]:
    """Return the arguments of timm's `VisionTransformer` for an architecture.

    Args:
        params: The architecture.
        image_size: Side of the images in pixels, for which there are positions.
    """
    hidden = 4 * params.embed_dim
    if params.ffn == "swiglu":
        # The official width, 2/3 of an MLP's rounded up to a multiple of 8. timm counts gate and value together.
        hidden = 2 * ((int(hidden * 2 / 3) + 7) // 8 * 8)
    return {
        "img_size": image_size,
        "patch_size": params.patch_size,
        "embed_dim": params.embed_dim,
        "depth": params.depth,
        "num_heads": params.num_heads,
        "mlp_ratio": hidden / params.embed_dim,
        "init_values": params.layer_scale,
        "reg_tokens": params.registers,
        "num_classes": 0,
    }


class StochasticBlock(Block):
    """timm's pre-norm block for several sets of crops at once, with stochastic depth for each sample.

    Sets differ in their number of tokens. All layers except the attention itself run on the tokens of all sets
    together. For global and local crops this needs half the kernel launches, its matrix products are larger, and FSDP
    gathers each weight once.
    """

    def forward(  # type: ignore[override]
        self,
        x: Tensor | list[Tensor],
        kept: list[tuple[Kept, Kept]] | None = None,
        token_indices: list[Tensor] | None = None,
    ) -> Tensor | list[Tensor]:
        """Run the block.

        Args:
            x: Tokens of each set, (B_i, T_i, D), or a tensor for a single set, for which timm's own forward is used.
            kept: For each set, the samples that keep the attention and those that keep the MLP; None for all.
            token_indices: For each set, indices (M_i,) int64 into (B_i, T_i) flattened; the MLP runs on these tokens
                only. None for all tokens.

        Returns:
            Tokens of each set, (B_i, T_i, D), or (M_i, D) with `token_indices`; a tensor if `x` is one.
        """
        if isinstance(x, Tensor):
            return super().forward(x)
        kept_attention, kept_mlp = zip(*kept, strict=True) if kept else (None, None)
        x = residual(x, self._attention, kept_attention)
        if token_indices is None:
            return residual(x, self._mlp, kept_mlp)
        tokens = [y.flatten(0, 1)[indices] for y, indices in zip(x, token_indices, strict=True)]
        updates = self._mlp(tokens)
        if kept_mlp:
            # The few selected tokens of dropped samples are computed and multiplied by 0: taking them out would give
            # tensors whose shape depends on the draw, and the host would have to wait for it.
            sizes = [y.shape[1] for y in x]
            updates = [
                update * ((keeps.place[indices // size] < len(keeps.samples)) * keeps.scale)[:, None]
                for update, indices, size, keeps in zip(updates, token_indices, sizes, kept_mlp, strict=True)
            ]
        return [y + update for y, update in zip(tokens, updates, strict=True)]

    def _attention(self, x: list[Tensor]) -> list[Tensor]:
        attention: Any = self.attn
        qkv = attention.qkv(self.norm1(_pack(x))).split([y.shape[0] * y.shape[1] for y in x])
        attended = [
            _attend(*own.view(*y.shape[:2], 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)).flatten(0, 1)
            for own, y in zip(qkv, x, strict=True)
        ]
        return _unpack(self.ls1(attention.proj(_cat(attended))), x)

    def _mlp(self, x: list[Tensor]) -> list[Tensor]:
        return _unpack(self.ls2(self.mlp(self.norm2(_pack(x)))), x)


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return softmax(q k^T / sqrt(d)) v, (B, T, heads d), for q, k and v (B, heads, T, d)."""
    if _fused(q.device, q.shape[2]):
        attended = F.scaled_dot_product_attention(q, k, v)
    else:
        attended = (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)).softmax(dim=-1) @ v
    return attended.transpose(1, 2).flatten(2)


def _fused(device: torch.device, tokens: int) -> bool:
    """Return whether to use the fused attention kernel for a number of tokens."""
    # On a CPU, matrix products are faster for the few tokens of a small crop: the fused kernel's backward pass took a
    # quarter of the demo's step (docs/log.md).
    return device.type == "cuda" or tokens > 256


def _pack(x: list[Tensor]) -> Tensor:
    """Concatenate the tokens of sets (..., D) to (T, D)."""
    return _cat([y.flatten(0, -2) for y in x])


def _cat(x: list[Tensor]) -> Tensor:
    return torch.cat(x) if len(x) > 1 else x[0]


def _unpack(tokens: Tensor, like: list[Tensor]) -> list[Tensor]:
    """Undo `_pack`: split tokens (T, D) into sets with the shapes of `like`."""
    return [
        part.view(y.shape) for part, y in zip(tokens.split([y.shape[:-1].numel() for y in like]), like, strict=True)
    ]


class Backbone(VisionTransformer):
    """A vision transformer whose patches can be masked, for images whose sides are multiples of the patch size.

    Registers have no position embedding. For other grids than the native one, positions are resampled bicubically:
    with the scale factor (h + 0.1) / H of DINOv2 and Franca if `position_resampling` is "offset", else antialiased to
    the size, as in DINOv2 with registers.
    """

    def __init__(self, params: BackboneParams, image_size: int, drop_path: float = 0.0) -> None:
        """Create the network with random weights.

        Args:
            params: The architecture.
            image_size: Native side of images in pixels, for which there are positions.
            drop_path: Rate of stochastic depth, the same in all blocks.
        """
        swiglu = params.ffn == "swiglu"
        super().__init__(
            **timm_arguments(params, image_size),
            dynamic_img_size=True,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            mlp_layer=SwiGLUPacked if swiglu else Mlp,  # type: ignore[arg-type]
            act_layer=nn.SiLU if swiglu else nn.GELU,
            block_fn=StochasticBlock,
            weight_init="skip",
        )
        self.drop_path = drop_path
        self._matrices: dict[tuple[int, int, torch.device], Tensor] = {}
        self.position_resampling = params.position_resampling
        grid = image_size // params.patch_size
        self.mask_token = nn.Parameter(torch.zeros(1, params.embed_dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + grid * grid, params.embed_dim))
        self._initialize()

    def _initialize(self) -> None:
        """Initialize as DINOv2 and Franca do: truncated normal 0.02 for linear weights and positions, zero biases."""
        assert self.pos_embed is not None and self.cls_token is not None
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        self.patch_embed.proj.reset_parameters()
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.normal_(self.cls_token, std=1e-6)
        if self.reg_token is not None:
            nn.init.normal_(self.reg_token, std=1e-6)

    def forward(  # type: ignore[override]
        self, images: list[Tensor], masks: Tensor | None, token_indices: list[Tensor]
    ) -> list[Tensor]:
        """Return selected tokens of several sets of crops after the last norm, for a training step.

        Args:
            images: Normalized images of each set, (B_i, 3, H_i, W_i) float32.
            masks: (B_0, h w) bool; patches of the first set to replace by the mask token before positions are added.
            token_indices: For each set, indices (M_i,) int64 into its tokens, (B_i, 1 + registers + h w) flattened.

        Returns:
            (M_i, D) for each set. The last block skips the MLP of all other tokens.
        """
        x = [self._embed(own, masks if number == 0 else None) for number, own in enumerate(images)]
        kept: list[list[tuple[Kept, Kept]] | None] = [None] * len(self.blocks)
        if self.training and self.drop_path:
            # One draw for all blocks of a set: a call for each branch would launch several small kernels.
            draws = [draw_kept(2 * len(self.blocks), len(y), self.drop_path, y.device) for y in x]
            pairs = [zip(own[::2], own[1::2], strict=True) for own in draws]
            kept = [list(block) for block in zip(*pairs, strict=True)]
        for block, keeps in zip(self.blocks[:-1], kept[:-1], strict=True):
            if self.grad_checkpointing and self.training:
                x = checkpoint(block, x, keeps, use_reentrant=False)
            else:
                x = block(x, keeps)
        tokens = self.blocks[-1](x, kept[-1], token_indices)
        return _unpack(self.norm(_pack(tokens)), tokens)

    def forward_features(self, images: Tensor, masks: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """Return all tokens after the last norm: class token, registers, then patches row by row.

        Args:
            images: Normalized images, (B, 3, H, W) float32.
            masks: (B, h w) bool, patches to replace by the mask token; None for none.

        Returns:
            (B, 1 + registers + h w, D). Stochastic depth is not applied.
        """
        x = self._embed(images, masks)
        for block in self.blocks:
            block.attn.fused_attn = _fused(x.device, x.shape[1])  # type: ignore[union-attr]
            x = block(x)
        return self.norm(x)

    def _embed(self, images: Tensor, masks: Tensor | None) -> Tensor:
        """Return the tokens before the first block, with positions, (B, 1 + registers + h w, D)."""
        x = self.patch_embed(images)
        if masks is not None:
            x = torch.where(masks.unflatten(1, x.shape[1:3])[..., None], self.mask_token.to(x.dtype), x)
        return self._pos_embed(x)

    def patches(self, images: Tensor) -> int:
        """Return the number of patches of each image of (B, 3, H, W)."""
        height, width = self.patch_embed.dynamic_feat_size((images.shape[-2], images.shape[-1]))
        return height * width

    def _pos_embed(self, x: Tensor) -> Tensor:
        """Prepend class token and registers to patches (B, h, w, D) and add positions to all but registers."""
        batch, height, width, _ = x.shape
        assert self.cls_token is not None
        x = torch.cat([self.cls_token.expand(batch, -1, -1), x.flatten(1, 2)], dim=1) + self.positions(height, width)
        if self.reg_token is not None:
            x = torch.cat([x[:, :1], self.reg_token.expand(batch, -1, -1), x[:, 1:]], dim=1)
        return x

    def positions(self, height: int, width: int) -> Tensor:
        """Return the position embedding of a grid of patches, (1, 1 + h w, D), the class token's first.

        Args:
            height: h, rows of the grid.
            width: w, columns of the grid.
        """
        assert self.pos_embed is not None
        side = self.patch_embed.grid_size[0]
        if (height, width) == (side, side):
            return self.pos_embed
        if not self.training:
            grid = self.pos_embed[:, 1:].float().reshape(1, side, side, -1).permute(0, 3, 1, 2)
            grid = self._resample(grid, height, width).permute(0, 2, 3, 1).flatten(1, 2)
            return torch.cat([self.pos_embed[:, :1], grid], dim=1)
        # Resampling is linear, so it is computed as a product with a constant matrix: the backward pass of bicubic
        # interpolation is not deterministic on a GPU.
        device = self.pos_embed.device
        if (height, width, device) not in self._matrices:
            identity = torch.eye(side * side, device=device).view(-1, 1, side, side)
            self._matrices[height, width, device] = self._resample(identity, height, width).flatten(1).T.double()
        # float64, which autocast does not convert.
        grid = (self._matrices[height, width, device] @ self.pos_embed[0, 1:].double()).float()
        return torch.cat([self.pos_embed[:, :1], grid[None]], dim=1)

    def _resample(self, grid: Tensor, height: int, width: int) -> Tensor:
        """Resample (N, C, side, side) float32 to (N, C, height, width)."""
        if self.position_resampling == "offset":
            scale = ((height + 0.1) / grid.shape[2], (width + 0.1) / grid.shape[3])
            return F.interpolate(grid, scale_factor=scale, mode="bicubic", align_corners=False)
        return F.interpolate(grid, size=(height, width), mode="bicubic", align_corners=False, antialias=True)


def resize_positions(pos_embed: Tensor, side: int) -> Tensor:
    """Resample trained positions to another grid to continue training there, bicubic and antialiased.

    Args:
        pos_embed: (1, 1 + h h, D) float32, positions of the class token and of a square grid.
        side: Side of the new grid in patches.

    Returns:
        (1, 1 + side side, D) float32.
    """
    old = math.isqrt(pos_embed.shape[1] - 1)
    grid = pos_embed[:, 1:].reshape(1, old, old, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=(side, side), mode="bicubic", align_corners=False, antialias=True)
    return torch.cat([pos_embed[:, :1], grid.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)
