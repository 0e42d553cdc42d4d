"""The product's step: the parts of `franca.pretrain.loop` in its order, without checkpoints and what it prints."""

from collections.abc import Callable

import torch

from benchmarks.step_setting import LEARNING_RATE, MOMENTUM, WEIGHT_DECAY, Setting
from franca.data.batch import RawBatch
from franca.data.multi_crop import stack
from franca.pretrain.monitor import Meter
from franca.pretrain.network import update_teacher
from franca.pretrain.objective import Assigner, student_terms
from franca.pretrain.optimizer import clip_gradients, make_optimizer, set_rates
from franca.pretrain.parts import Part
from franca.pretrain.setup import make_networks
from franca.pretrain.watch import FiniteCheck
from franca.runtime import make_deterministic, tf32


def franca_crops(setting: Setting) -> Part:
    cuts = setting.multi_crop.cuts(setting.draws(), setting.side)
    batch = RawBatch(stack(setting.images(), setting.side), *cuts, setting.masks())
    return setting.split(batch)[0]


class FrancaStep:
    def __init__(self, setting: Setting) -> None:
        make_deterministic(setting.params.runtime)
        self._setting, self._params = setting, setting.params.pretrain
        self.student, self.teacher = make_networks(setting.params, setting.device)
        self._assigner = Assigner(self._params.losses, self.student.dino_head.counts).to(setting.device)
        self._optimizer = make_optimizer(self.student, self._params.optimizer)
        self._meter = Meter(self.student.dino_head.levels, self.student.dino_head.counts, setting.device)
        self._finite = FiniteCheck(setting.device)

    def crops(self) -> Part:
        return franca_crops(self._setting)

    def backward(self, part: Part, lap: Callable[[str], object] = lambda name: None) -> torch.Tensor:
        """The loss, whose gradients it leaves in the student."""
        with torch.no_grad(), self._setting.autocast():
            views = [self.teacher(part.global_crops, part.masked)]
        lap("teacher")
        with tf32(self._setting.bf16):
            targets = self._assigner(views, self._setting.temperature)
        with self._setting.autocast():
            seen = self.student(part.global_crops, part.masked, part.masks, part.local_crops)
        lap("student")
        with tf32(self._setting.bf16):
            terms = student_terms(seen, targets[0], part.mask_weights, self._params.losses)
        lap("assignments_and_losses")
        terms.total.backward()
        lap("backward")
        self._meter.update(terms)
        lap("log")
        return terms.total

    def train(self, crops: Part, lap: Callable[[str], object] = lambda name: None) -> None:
        """`lap` is told the name of each part of the step when it is done."""
        set_rates(self._optimizer, LEARNING_RATE, LEARNING_RATE, WEIGHT_DECAY)
        self.backward(crops, lap)
        norms = clip_gradients(self.student, self._params.optimizer.clip_norm)
        self._finite.guard(self._optimizer, norms, 1)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        lap("optimizer")
        update_teacher(self.teacher, self.student, MOMENTUM)
        lap("moving_average")
        self._meter.add({f"grad_norm/{name}": norm for name, norm in norms.items()})
        lap("log")
