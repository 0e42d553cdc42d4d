"""Nested heads: one set of prototypes for each Matryoshka level of the embedding (Franca, arXiv 2507.14137)."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from franca.models.backbone import nesting_levels
from franca.params import Heads


class Level(NamedTuple):
    """One level of a head's output, whose logits (N, K) are hidden @ prototypes.T."""

    hidden: Tensor
    """(N, b) float32, or bfloat16 under autocast: the bottleneck"""
    prototypes: Tensor
    """(K, b) float32"""


class Prototypes(nn.Module):
    """Weight-normalized prototypes (K, b) float32: row k is weight_g[k] weight_v[k] / |weight_v[k]|."""

    def __init__(self, dim: int, count: int) -> None:
        """Draw `count` prototypes of dimension `dim`."""
        super().__init__()
        self.weight_v = nn.Parameter(torch.empty(count, dim))
        self.weight_g = nn.Parameter(torch.ones(count, 1))
        nn.init.uniform_(self.weight_v, -(dim**-0.5), dim**-0.5)

    def forward(self, count: int | None = None) -> Tensor:
        """Return the first `count` prototypes, or all of them, (count, b)."""
        # The function that torch.nn.utils.parametrizations.weight_norm calls. It makes one pass over the weights, the
        # formula in tensor operations several: 6 against 59 ms for 16,384 x 384, forward and backward, on a CPU.
        return torch._weight_norm(self.weight_v[:count], self.weight_g[:count], 0)


def _mlp(width: int, hidden: int, bottleneck: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(width, hidden),
        nn.GELU(),
        nn.Linear(hidden, hidden),
        nn.GELU(),
        nn.Linear(hidden, bottleneck),
        nn.GELU(),
    )


class ContrastiveHead(nn.Sequential):
    """Maps class tokens (N, D) to embeddings (L, N, bottleneck) for the contrastive loss by an MLP, as in SimCLR.

    With `nesting` "slice", level l is x[:, :d_l], and all levels share the MLP, with the first d_l columns of its
    first layer. Otherwise there is one level, all of x.
    """

    def __init__(self, embed_dim: int, params: Heads) -> None:
        super().__init__(
            nn.Linear(embed_dim, params.hidden_dim), nn.GELU(), nn.Linear(params.hidden_dim, params.bottleneck_dim)
        )
        self.levels = nesting_levels(embed_dim) if params.nesting == "slice" else (embed_dim,)

    def forward(self, x: Tensor) -> Tensor:
        """Return the embeddings of each level, narrowest first."""
        return torch.stack([_of_slice(self, x[..., :width]) for width in self.levels])


def _of_slice(mlp: nn.Sequential, x: Tensor) -> Tensor:
    """Return an MLP's output for the first d dimensions (N, d) of its input, with the others left out."""
    first: Any = mlp[0]
    x = F.linear(x, first.weight[:, : x.shape[-1]], first.bias)
    for layer in list(mlp)[1:]:
        x = layer(x)
    return x


class NestedHead(nn.Module):
    """Maps tokens (N, D) to levels, narrowest first; level l has width d_l and K_l = int(K d_l / D) prototypes.

    The input of level l depends on `nesting`: Linear(D -> d_l)(x) for "project", as in the official code; x[:, :d_l]
    for "slice", as in the paper. "none" has one level, all of x, as in DINOv2. With `sharing` "shared" (only for
    slices), all levels use the widest level's MLP, with the first d_l columns of its first layer, and the first K_l of
    its prototypes.

    Logits are not computed here: they would be the largest tensors of training (see `losses.cross_entropy`).
    """

    def __init__(self, embed_dim: int, params: Heads) -> None:
        super().__init__()
        self.levels = (embed_dim,) if params.nesting == "none" else nesting_levels(embed_dim)
        self.counts = tuple(int(params.prototypes * width / embed_dim) for width in self.levels)
        owned = (embed_dim,) if params.sharing == "shared" else self.levels
        project = params.nesting == "project"
        self.projections = nn.ModuleList(nn.Linear(embed_dim, width) for width in self.levels if project)
        self.mlps = nn.ModuleList(_mlp(width, params.hidden_dim, params.bottleneck_dim) for width in owned)
        self.last_layers = nn.ModuleList(
            Prototypes(params.bottleneck_dim, count) for count in self.counts[-len(owned) :]
        )
        for module in self.modules():
            if isinstance(module, nn.Linear):
                std = 0.02 if params.init == "fixed" else module.in_features**-0.5
                nn.init.trunc_normal_(module.weight, std=std, a=-2 * std, b=2 * std)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> list[Level]:
        """Return the levels of tokens (N, D), narrowest first."""
        return [self._level(level, x) for level in range(len(self.levels))]

    def _level(self, level: int, x: Tensor) -> Level:
        nested = self.projections[level](x) if len(self.projections) else x[..., : self.levels[level]]
        if len(self.mlps) == len(self.levels):
            return Level(self.mlps[level](nested), self.last_layers[level]())
        mlp: Any = self.mlps[0]
        return Level(_of_slice(mlp, nested), self.last_layers[0](self.counts[level]))
