"""Cross-entropy of the student's class tokens with the teacher's assignments (DINO), level by level."""

from torch import Tensor
from torch.nn import functional as F


def cross_entropy(logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """-sum_k t_k log softmax(s / temperature)_k for each row, in float32: (N, K), (N, K) -> (N,)."""
    return -(targets * F.log_softmax(logits.float() / temperature, dim=-1)).sum(dim=-1)


def dino_local_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Every local crop against both global crops, summed over pairs of crops, averaged over images.

    student (n B, K) logits, teacher (2 B, K) assignments, both crop-major: rows i B … (i + 1) B - 1 are crop i.
    """
    both = teacher.unflatten(0, (2, -1)).sum(dim=0)
    crops = student.unflatten(0, (-1, len(both)))
    return cross_entropy(crops, both, temperature).mean(dim=1).sum()


def dino_global_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Row r against row r, averaged over rows (2 B, K); the teacher's halves come swapped."""
    return cross_entropy(student, teacher, temperature).mean()
