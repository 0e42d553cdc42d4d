"""The teacher's soft assignments of tokens to prototypes."""

from dataclasses import dataclass, replace

from torch import Tensor

from franca.losses.chunks import exp_


@dataclass(frozen=True)
class Assignments:
    """Assignments T (N, K): T_nk = exp(h_n . w_k - f_k - g_n), all float32.

    f and g are the potentials that normalize over samples and over prototypes. If T is not kept, its rows are computed
    again from the other fields, some at a time: (N + K) (b + 1) numbers in memory instead of N K.
    """

    hidden: Tensor
    """h (N, b): the head's bottleneck, divided by the teacher's temperature"""
    prototypes: Tensor
    """w (K, b)"""
    prototype: Tensor
    """f (K,): the potential of each prototype, from Sinkhorn-Knopp or a center"""
    sample: Tensor
    """g (N,): the potential of each sample, with which its row of T sums to one"""
    kept: Tensor | None = None
    """T (N, K), or None"""

    def __len__(self) -> int:
        return len(self.hidden)

    def rows(self, part: slice = slice(None)) -> Tensor:
        """Return rows of T, (n, K) float32; the caller must not modify them."""
        if self.kept is not None:
            return self.kept[part]
        logits = self.hidden[part] @ self.prototypes.T
        return exp_(logits.sub_(self.prototype).sub_(self.sample[part, None]))

    def without_rows(self) -> "Assignments":
        """Return the same assignments without T, which needs less memory."""
        return replace(self, kept=None)

    def split(self, sizes: list[int]) -> "list[Assignments]":
        """Split into consecutive runs of samples of the given sizes; samples after the last run are left out."""
        parts, start = [], 0
        for size in sizes:
            part = slice(start, start := start + size)
            kept = None if self.kept is None else self.kept[part]
            parts.append(replace(self, hidden=self.hidden[part], sample=self.sample[part], kept=kept))
        return parts
