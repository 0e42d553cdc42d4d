"""The teacher's soft assignments of tokens to prototypes."""

from dataclasses import dataclass, replace

from torch import Tensor

from franca.losses.chunks import exp_


@dataclass(frozen=True)
class Assignments:
    """Assignments T (N, K): T_nk = exp(h_n . w_k - prototype_k - sample_n). All float32.

    Where T is not kept its rows are made from the rest, some at a time: (N + K) (b + 1) numbers instead of N K.
    """

    hidden: Tensor
    """h (N, b): the head's bottleneck, divided by the teacher's temperature"""
    prototypes: Tensor
    """w (K, b)"""
    prototype: Tensor
    """(K,): what Sinkhorn-Knopp or a center takes from each prototype"""
    sample: Tensor
    """(N,): what makes a row sum to one"""
    kept: Tensor | None = None
    """T (N, K), if it is there"""

    def __len__(self) -> int:
        return len(self.hidden)

    def rows(self, part: slice = slice(None)) -> Tensor:
        """Rows of T, (n, K), not to be changed."""
        if self.kept is not None:
            return self.kept[part]
        logits = self.hidden[part] @ self.prototypes.T
        return exp_(logits.sub_(self.prototype).sub_(self.sample[part, None]))

    def without_rows(self) -> "Assignments":
        """The same, in less memory."""
        return replace(self, kept=None)

    def split(self, sizes: list[int]) -> "list[Assignments]":
        """Assignments of consecutive runs of samples; what lies behind the last run is left out."""
        parts, start = [], 0
        for size in sizes:
            part = slice(start, start := start + size)
            kept = None if self.kept is None else self.kept[part]
            parts.append(replace(self, hidden=self.hidden[part], sample=self.sample[part], kept=kept))
        return parts
