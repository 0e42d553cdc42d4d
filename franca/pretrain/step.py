"""One training step: teacher, assignments, student, losses, backward pass, AdamW and the teacher's moving average."""

from contextlib import AbstractContextManager

import torch
from torch import nn
from torch.profiler import record_function

from franca.params import Params
from franca.pretrain.finite_check import FiniteCheck
from franca.pretrain.microbatch import Microbatch
from franca.pretrain.monitor import AverageMeter
from franca.pretrain.network import Network, share_prototypes, update_teacher
from franca.pretrain.objective import Assigner, student_loss
from franca.pretrain.optimizer import clip_gradients, make_optimizer, moments, set_rates
from franca.pretrain.parallel import synchronized
from franca.pretrain.schedules import Rates
from franca.pretrain.setup import padding_levels
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
            run_student: The module to call for a forward pass of the student: itself, or its DistributedDataParallel
                wrapper.
            device: The device of the networks.
            precision: "bf16" for autocast of backbone and heads, "fp32" for none.
        """
        self._params, self._device, self._bf16 = params, device, precision == "bf16"
        self.student, self.teacher, self._run_student = student, teacher, run_student
        self.assigner = Assigner(params.pretrain.losses, student.dino_head.counts).to(device)
        self.optimizer = make_optimizer(student, params.pretrain.optimizer)
        self.meter = AverageMeter(student.dino_head.levels, student.dino_head.counts, device)
        self.finite = FiniteCheck(device)

    def state(self) -> dict[str, dict[str, object]]:
        """Return all tensors of a checkpoint, by name; loading a checkpoint fills them in place."""
        return {
            "student": dict(self.student.named_parameters()),
            "teacher": dict(self.teacher.named_parameters()),
            "optimizer": dict(moments(self.student, self.optimizer)),
            "centers": dict(self.assigner.named_parameters()),
        }

    def __call__(self, microbatches: list[Microbatch], rates: Rates, step: int) -> None:
        """Take one step.

        Args:
            microbatches: This process's share of a batch; their gradients are accumulated.
            rates: The values of the schedules in this step.
            step: Number of this step, from 1.
        """
        set_rates(self.optimizer, rates.lr, rates.last_layer_lr, rates.weight_decay)
        self.gradients(microbatches, rates.teacher_temperature)
        with self.phase("optimizer"):
            # The norms stay on the device. The guard reads them there, and the fused AdamW reads the guard's result.
            norms = clip_gradients(self.student, self._params.pretrain.optimizer.clip_norm)
            self.finite.guard(self.optimizer, norms, step)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        with self.phase("moving average"):
            update_teacher(self.teacher, self.student, rates.teacher_momentum, self.finite.found_inf)
            self.assigner.update_centers(self.finite.found_inf)
        self.meter.add({f"grad_norm/{name}": norm for name, norm in norms.items()})

    def gradients(self, microbatches: list[Microbatch], teacher_temperature: float) -> None:
        """Add the gradients of the batch's mean loss to those of the student."""
        losses, levels = self._params.pretrain.losses, self.student.dino_head.levels
        # The teacher runs on all microbatches before the student runs on the first: Sinkhorn-Knopp normalizes over the
        # whole batch.
        with self.phase("teacher"), torch.no_grad(), self.autocast():
            teacher_outputs = share_prototypes(self.teacher(m.global_crops, m.masked) for m in microbatches)
            padding = padding_levels(self.teacher, microbatches, self._params)
        with self.phase("assignments and losses"), tf32(self._bf16):
            # The targets of a single microbatch are lazy: Sinkhorn-Knopp runs on a level when its loss requests it.
            targets = self.assigner(teacher_outputs, teacher_temperature, padding)
        for microbatch, own_targets in zip(microbatches, targets, strict=True):
            # Gradients are averaged over ranks once, in the last microbatch's backward pass.
            with synchronized(self._run_student, last=microbatch is microbatches[-1]):
                with self.phase("student"), self.autocast():
                    student_outputs = self._run_student(
                        microbatch.global_crops, microbatch.masked, microbatch.masks, microbatch.local_crops
                    )
                # Outside autocast: logits and losses are float32. TF32 products are accurate enough after layers that
                # ran in bfloat16.
                with self.phase("assignments and losses"), tf32(self._bf16):
                    loss = student_loss(student_outputs, own_targets, microbatch.mask_weights, losses, levels)
                with self.phase("backward"):
                    (loss.total / len(microbatches)).backward()
            self.meter.update(loss)

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context in which backbone and heads run."""
        return torch.autocast(self._device.type, torch.bfloat16, enabled=self._bf16)

    def phase(self, name: str) -> AbstractContextManager[object]:
        """Return a context that names a phase of the step in profiler traces; benchmarks override this to time it."""
        return record_function(name)
