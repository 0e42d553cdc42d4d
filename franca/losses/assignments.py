"""The teacher's soft assignments of tokens to prototypes, made row by row from what they follow from."""

from dataclasses import dataclass, replace

from torch import Tensor


@dataclass(frozen=True)
class Assignments:
    """Assignments T (N, K): T_nk = exp(h_n . w_k - prototype_k - sample_n). All float32.

    Keeping (N + K) (b + 1) numbers instead of N K is what makes a hundred thousand prototypes affordable.
    """

    hidden: Tensor
    """h (N, b): the head's bottleneck, divided by the teacher's temperature"""
    prototypes: Tensor
    """w (K, b)"""
    prototype: Tensor
    """(K,): what Sinkhorn-Knopp or a center takes from each prototype"""
    sample: Tensor
    """(N,): what makes a row sum to one"""

    def __len__(self) -> int:
        return len(self.hidden)

    def rows(self, part: slice = slice(None)) -> Tensor:
        """Rows of T, float32 (n, K)."""
        logits = self.hidden[part] @ self.prototypes.T
        return logits.sub_(self.prototype).sub_(self.sample[part, None]).exp_()

    def split(self, sizes: list[int]) -> "list[Assignments]":
        """Assignments of consecutive runs of samples; what lies behind the last run is left out."""
        parts, start = [], 0
        for size in sizes:
            part = slice(start, start := start + size)
            parts.append(replace(self, hidden=self.hidden[part], sample=self.sample[part]))
        return parts
