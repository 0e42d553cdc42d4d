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
    """timm's pre-norm block for several sets of crops at once, which can drop its branches for some of the samples.

    Sets differ in their number of tokens. All layers but the attention itself run on the tokens of all sets together:
    half the launches for global and local crops, larger matrix products, and FSDP gathers each weight once.
    """

    def forward(  # type: ignore[override]
        self,
        x: Tensor | list[Tensor],
        kept: list[tuple[Kept, Kept]] | None = None,
        wanted: list[Tensor] | None = None,
    ) -> Tensor | list[Tensor]:
        """Run the block.

        Args:
            x: Tokens of each set, (B_i, T_i, D), or of a single one.
            kept: The samples of each set that keep the attention and the MLP; None for all.
            wanted: For each set, positions (M_i,) int64 in (B_i, T_i), row by row; the MLP runs on these tokens alone.

        Returns:
            Tokens of each set, (B_i, T_i, D), or (M_i, D) of the wanted ones; those of a single set if `x` is one.
        """
        if isinstance(x, Tensor):
            return super().forward(x)
        of_attention, of_mlp = zip(*kept, strict=True) if kept else (None, None)
        x = residual(x, self._attention, of_attention)
        if wanted is None:
            return residual(x, self._mlp, of_mlp)
        tokens = [y.flatten(0, 1)[positions] for y, positions in zip(x, wanted, strict=True)]
        updates = self._mlp(tokens)
        if of_mlp:
            sizes = [y.shape[1] for y in x]
            updates = [
                update * ((keeps.place[positions // size] < len(keeps.samples)) * keeps.scale)[:, None]
                for update, positions, size, keeps in zip(updates, wanted, sizes, of_mlp, strict=True)
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
    """Return softmax(q k^T / sqrt(d)) v as (B, T, heads d), of (B, heads, T, d)."""
    if _fused(q.device, q.shape[2]):
        attended = F.scaled_dot_product_attention(q, k, v)
    else:
        attended = (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)).softmax(dim=-1) @ v
    return attended.transpose(1, 2).flatten(2)


def _fused(device: torch.device, tokens: int) -> bool:
    """Whether to use the fused kernel: on a CPU plain matrix products beat it for the few tokens of a crop."""
    return device.type == "cuda" or tokens > 256


def _pack(x: list[Tensor]) -> Tensor:
    """Return all tokens, (T, D), of sets (..., D)."""
    return _cat([y.flatten(0, -2) for y in x])


def _cat(x: list[Tensor]) -> Tensor:
    return torch.cat(x) if len(x) > 1 else x[0]


def _unpack(tokens: Tensor, like: list[Tensor]) -> list[Tensor]:
    """Undo `_pack`: tokens (T, D) as sets of the shapes of `like`."""
    return [
        part.view(y.shape) for part, y in zip(tokens.split([y.shape[:-1].numel() for y in like]), like, strict=True)
    ]


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
        self._matrices: dict[tuple[int, int, torch.device], Tensor] = {}
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
        self, images: list[Tensor], masks: Tensor | None, wanted: list[Tensor]
    ) -> list[Tensor]:
        """Return the normalized tokens that a training step reads, of several sets of crops.

        Args:
            images: Normalized images of each set, (B_i, 3, H_i, W_i).
            masks: (B_0, h w) bool; patches of the first set to replace by the mask token before positions are added.
            wanted: For each set, positions (M_i,) int64 in its (B_i, tokens), row by row.

        Returns:
            (M_i, D) for each set. The last block leaves out the MLP of all other tokens.
        """
        x = [self._embed(own, masks if number == 0 else None) for number, own in enumerate(images)]
        kept: list[list[tuple[Kept, Kept]] | None] = [None] * len(self.blocks)
        if self.training and self.drop_path:
            draws = [draw_kept(2 * len(self.blocks), len(y), self.drop_path, y.device) for y in x]
            pairs = [zip(own[::2], own[1::2], strict=True) for own in draws]
            kept = [list(block) for block in zip(*pairs, strict=True)]
        for block, keeps in zip(self.blocks[:-1], kept[:-1], strict=True):
            if self.grad_checkpointing and self.training:
                x = checkpoint(block, x, keeps, use_reentrant=False)
            else:
                x = block(x, keeps)
        tokens = self.blocks[-1](x, kept[-1], wanted)
        return _unpack(self.norm(_pack(tokens)), tokens)

    def forward_features(self, images: Tensor, masks: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """Return all normalized tokens (B, 1 + registers + h w, D) of normalized images (B, 3, H, W).

        Patches are replaced by the mask token if `masks` (B, h w) is true. No branch is dropped.
        """
        x = self._embed(images, masks)
        for block in self.blocks:
            block.attn.fused_attn = _fused(x.device, x.shape[1])  # type: ignore[union-attr]
            x = block(x)
        return self.norm(x)

    def _embed(self, images: Tensor, masks: Tensor | None) -> Tensor:
        """Return tokens with positions, (B, 1 + registers + h w, D)."""
        x = self.patch_embed(images)
        if masks is not None:
            x = torch.where(masks.unflatten(1, x.shape[1:3])[..., None], self.mask_token.to(x.dtype), x)
        return self._pos_embed(x)

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
        if not self.training:
            grid = self.pos_embed[:, 1:].float().reshape(1, side, side, -1).permute(0, 3, 1, 2)
            grid = self._resample(grid, height, width).permute(0, 2, 3, 1).flatten(1, 2)
            return torch.cat([self.pos_embed[:, :1], grid], dim=1)
        # Resampling is linear. As a product its backward pass is deterministic on a GPU too, which bicubic's is not.
        device = self.pos_embed.device
        if (height, width, device) not in self._matrices:
            identity = torch.eye(side * side, device=device).view(-1, 1, side, side)
            self._matrices[height, width, device] = self._resample(identity, height, width).flatten(1).T.double()
        # Autocast leaves float64 alone.
        grid = (self._matrices[height, width, device] @ self.pos_embed[0, 1:].double()).float()
        return torch.cat([self.pos_embed[:, :1], grid[None]], dim=1)

    def _resample(self, grid: Tensor, height: int, width: int) -> Tensor:
        """Resample (N, C, side, side) float32 to (N, C, height, width)."""
        if self.position_resampling == "offset":
            scale = ((height + 0.1) / grid.shape[2], (width + 0.1) / grid.shape[3])
            return F.interpolate(grid, scale_factor=scale, mode="bicubic", align_corners=False)
        return F.interpolate(grid, size=(height, width), mode="bicubic", align_corners=False, antialias=True)


def resize_positions(pos_embed: Tensor, side: int) -> Tensor:
    """Positions (1, 1 + s s, D) of a grid of `side`, to go on training there: bicubic, antialiased."""
    old = math.isqrt(pos_embed.shape[1] - 1)
    grid = pos_embed[:, 1:].reshape(1, old, old, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=(side, side), mode="bicubic", align_corners=False, antialias=True)
    return torch.cat([pos_embed[:, :1], grid.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)
