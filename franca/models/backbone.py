"""The vision transformer: timm's, with a mask token, the official position interpolation and stochastic depth."""

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


def nesting_levels(embed_dim: int) -> tuple[int, ...]:
    """Widths of the Matryoshka levels, narrowest first: D/16, D/8, D/4, D/2, D."""
    return tuple(embed_dim // divisor for divisor in LEVEL_DIVISORS)


def timm_arguments(params: BackboneParams, image_size: int) -> dict[str, Any]:
    """Arguments of timm's `VisionTransformer` for an architecture; the official SwiGLU width where it is SwiGLU."""
    hidden = 4 * params.embed_dim
    if params.ffn == "swiglu":
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
    """timm's pre-norm block, which can drop its two branches for some samples of a batch."""

    def forward(  # type: ignore[override]
        self, x: Tensor, kept: tuple[Kept, Kept] | None = None, wanted: Tensor | None = None
    ) -> Tensor:
        """Run the block.

        Args:
            x: Tokens (B, T, D).
            kept: Samples that keep the attention and the MLP; None for all.
            wanted: Positions (M,) int64 in (B, T), row by row; the MLP then runs on these tokens alone.

        Returns:
            Tokens (B, T, D), or (M, D) of the wanted ones.
        """
        of_attention, of_mlp = kept or (None, None)
        x = residual(x, lambda y: self.ls1(self.attn(self.norm1(y))), of_attention)
        if wanted is None:
            return residual(x, self._mlp, of_mlp)
        tokens = x.flatten(0, 1)[wanted]
        update = self._mlp(tokens)
        if of_mlp is not None:
            keeps = of_mlp.place[wanted // x.shape[1]] < len(of_mlp.samples)
            update = update * (keeps * of_mlp.scale)[:, None]
        return tokens + update

    def _mlp(self, x: Tensor) -> Tensor:
        update: Tensor = self.ls2(self.mlp(self.norm2(x)))
        return update


class Backbone(VisionTransformer):
    """Vision transformer whose patches can be masked, for images of any size that patches divide.

    Registers carry no position embedding. Positions of another grid than the native one are resampled bicubically, as
    `position_resampling` says.
    """

    def __init__(self, params: BackboneParams, image_size: int, drop_path: float = 0.0) -> None:
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
        self.position_resampling = params.position_resampling
        grid = image_size // params.patch_size
        self.mask_token = nn.Parameter(torch.zeros(1, params.embed_dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + grid * grid, params.embed_dim))
        self._initialize()

    def _initialize(self) -> None:
        """Truncated normal 0.02 for linear weights and positions, zeros for biases, as DINOv2 and Franca start."""
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
        self, images: Tensor, masks: Tensor | None = None, wanted: Tensor | None = None
    ) -> Tensor:
        """The same as `forward_features`: there is no classifier."""
        return self.forward_features(images, masks, wanted)

    def forward_features(  # type: ignore[override]
        self, images: Tensor, masks: Tensor | None = None, wanted: Tensor | None = None
    ) -> Tensor:
        """Normalized tokens (B, 1 + registers + h w, D) of normalized images (B, 3, H, W).

        Masked patches, where `masks` (B, h w) is true, are replaced by the mask token before positions are added. Of
        `wanted` (M,), positions in (B, tokens) row by row, those tokens alone are given, (M, D): the last block spares
        itself the MLP of all others.
        """
        x = self.patch_embed(images)
        if masks is not None:
            x = torch.where(masks.unflatten(1, x.shape[1:3])[..., None], self.mask_token.to(x.dtype), x)
        x = self._pos_embed(x)
        # On a CPU plain matrix products beat the fused kernel for the few tokens that a crop has.
        fused = x.is_cuda or x.shape[1] > 256
        for block in self.blocks:
            block.attn.fused_attn = fused  # type: ignore[union-attr]
        kept: list[tuple[Kept, Kept] | None] = [None] * len(self.blocks)
        if self.training and self.drop_path:
            draws = draw_kept(2 * len(self.blocks), len(x), self.drop_path, x.device)
            kept = list(zip(draws[::2], draws[1::2], strict=True))
        for block, keeps in zip(self.blocks[:-1], kept[:-1], strict=True):
            if self.grad_checkpointing and self.training:
                x = checkpoint(block, x, keeps, use_reentrant=False)
            else:
                x = block(x, keeps)
        return self.norm(self.blocks[-1](x, kept[-1], wanted))

    def patches(self, images: Tensor) -> int:
        """How many patches each image has."""
        height, width = self.patch_embed.dynamic_feat_size((images.shape[-2], images.shape[-1]))
        return height * width

    def _pos_embed(self, x: Tensor) -> Tensor:
        """Class token and registers put before patches (B, h, w, D), positions added to all but registers."""
        batch, height, width, _ = x.shape
        assert self.cls_token is not None
        x = torch.cat([self.cls_token.expand(batch, -1, -1), x.flatten(1, 2)], dim=1) + self.positions(height, width)
        if self.reg_token is not None:
            x = torch.cat([x[:, :1], self.reg_token.expand(batch, -1, -1), x[:, 1:]], dim=1)
        return x

    def positions(self, height: int, width: int) -> Tensor:
        """Position embedding (1, 1 + h w, D) of a patch grid, the class token's first."""
        assert self.pos_embed is not None
        side = self.patch_embed.grid_size[0]
        if (height, width) == (side, side):
            return self.pos_embed
        grid = self.pos_embed[:, 1:].float().reshape(1, side, side, -1).permute(0, 3, 1, 2)
        if self.position_resampling == "offset":
            scale = ((height + 0.1) / side, (width + 0.1) / side)
            grid = F.interpolate(grid, scale_factor=scale, mode="bicubic", align_corners=False)
        else:
            grid = F.interpolate(grid, size=(height, width), mode="bicubic", align_corners=False, antialias=True)
        return torch.cat([self.pos_embed[:, :1], grid.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)


def resize_positions(pos_embed: Tensor, side: int) -> Tensor:
    """Positions (1, 1 + s s, D) of a grid of `side`, to go on training there: bicubic, antialiased."""
    old = math.isqrt(pos_embed.shape[1] - 1)
    grid = pos_embed[:, 1:].reshape(1, old, old, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=(side, side), mode="bicubic", align_corners=False, antialias=True)
    return torch.cat([pos_embed[:, :1], grid.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)
