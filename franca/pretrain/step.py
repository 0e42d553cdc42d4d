"""One training step: teacher, assignments, student, losses, backward pass, AdamW and the teacher's moving average."""

from contextlib import AbstractContextManager

import torch
from torch import nn
from torch.profiler import record_function

from franca.losses.contrastive import Keys, gather_keys
from franca.params import Params
from franca.pretrain.finite_check import FiniteCheck
from franca.pretrain.microbatch import Part
from franca.pretrain.monitor import Meter
from franca.pretrain.network import Network, Outputs, share_prototypes, update_teacher
from franca.pretrain.objective import Assigner, student_terms
from franca.pretrain.optimizer import clip_gradients, make_optimizer, moments, set_rates
from franca.pretrain.parallel import synchronized
from franca.pretrain.schedules import Rates
from franca.pretrain.setup import padding
from franca.runtime import tf32


class TrainStep:
    """Updates student, optimizer and teacher from one batch.

    Nothing in a step reads a value back from the device, so the host can run ahead of a GPU. The losses are summed
    in `meter`, and `finite` remembers the first step whose gradients were not finite.
    """

    def __init__(
        self,
        params: Params,
        student: Network,
        teacher: Network,
        run_student: nn.Module,
        device: torch.device,
        precision: str,
    ) -> None:
        """Create the optimizer and everything else that has state.

        Args:
            params: All parameters.
            student: The network that is trained, already distributed.
            teacher: The network that follows it, without gradients.
            run_student: What to call to run the student: itself, or its DistributedDataParallel wrapper.
            device: Where the networks are.
            precision: "bf16" for autocast of backbone and heads, "fp32" for none.
        """
        self._params, self._device, self._low = params, device, precision == "bf16"
        self.student, self.teacher, self._run_student = student, teacher, run_student
        self.assigner = Assigner(params.pretrain.losses, student.dino_head.counts).to(device)
        self.optimizer = make_optimizer(student, params.pretrain.optimizer)
        self.meter = Meter(student.dino_head.levels, student.dino_head.counts, device)
        self.finite = FiniteCheck(device)

    def state(self) -> dict[str, dict[str, object]]:
        """Return all tensors that a checkpoint holds, by name; loading a checkpoint fills them in place."""
        return {
            "student": dict(self.student.named_parameters()),
            "teacher": dict(self.teacher.named_parameters()),
            "optimizer": dict(moments(self.student, self.optimizer)),
            "centers": dict(self.assigner.named_parameters()),
        }

    def __call__(self, parts: list[Part], rates: Rates, step: int) -> None:
        """Train on the parts of a batch, whose gradients are accumulated; `step` counts from 1."""
        set_rates(self.optimizer, rates.lr, rates.last_layer_lr, rates.weight_decay)
        self.gradients(parts, rates.teacher_temperature)
        with self.phase("optimizer"):
            norms = clip_gradients(self.student, self._params.pretrain.optimizer.clip_norm)
            self.finite.guard(self.optimizer, norms, step)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        with self.phase("moving average"):
            update_teacher(self.teacher, self.student, rates.teacher_momentum, self.finite.found_inf)
            self.assigner.update_centers(self.finite.found_inf)
        self.meter.add({f"grad_norm/{name}": norm for name, norm in norms.items()})

    def gradients(self, parts: list[Part], teacher_temperature: float) -> None:
        """Add the gradients of the batch's mean loss to the student's."""
        losses = self._params.pretrain.losses
        with self.phase("teacher"), torch.no_grad(), self.autocast():
            views = share_prototypes(self.teacher(part.global_crops, part.masked) for part in parts)
            padded = padding(self.teacher, parts, self._params)
        with self.phase("assignments and losses"), tf32(self._low):
            # Those of a single part are lazy: a level's Sinkhorn-Knopp runs when its loss asks for it.
            targets = self.assigner(views, teacher_temperature, padded)
            keys = _keys(views)
        for part, wanted, own_keys in zip(parts, targets, keys, strict=True):
            with synchronized(self._run_student, last=part is parts[-1]):
                with self.phase("student"), self.autocast():
                    seen = self._run_student(part.global_crops, part.masked, part.masks, part.local_crops)
                with self.phase("assignments and losses"), tf32(self._low):
                    terms = student_terms(seen, wanted, part.mask_weights, losses, own_keys)
                with self.phase("backward"):
                    (terms.total / len(parts)).backward()
            self.meter.update(terms)

    def autocast(self) -> AbstractContextManager[object]:
        return torch.autocast(self._device.type, torch.bfloat16, enabled=self._low)

    def phase(self, name: str) -> AbstractContextManager[object]:
        """Name a part of the step in profiler traces; benchmarks override this to time it."""
        return record_function(name)


def _keys(views: list[Outputs]) -> list[Keys] | list[None]:
    """Return the keys of the contrastive loss for each part, or None for each without that loss."""
    embeddings = [view.contrastive for view in views if view.contrastive is not None]
    return gather_keys(embeddings) if embeddings else [None] * len(views)
