"""Schedules of learning rate, weight decay, teacher momentum and teacher temperature: one value per iteration."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from franca.params import Pretrain, scaled_lr

Schedule = NDArray[np.float64]
"""(iterations,) float64."""


def cosine(base: float, final: float, total: int, warmup: int = 0, start: float = 0.0) -> Schedule:
    """Return (total,) values: linear from `start` to `base` over `warmup` values, both included, then half a cosine.

    Value i of the n = total - warmup values of the cosine is final + (base - final) (1 + cos(pi i / n)) / 2. The last
    one is not yet `final`, as in the official code.
    """
    steps = np.arange(total - warmup)
    curve = final + (base - final) / 2 * (1 + np.cos(np.pi * steps / max(len(steps), 1)))
    return np.concatenate([np.linspace(start, base, warmup), curve])


def linear(start: float, end: float, total: int, warmup: int) -> Schedule:
    """Return (total,) values: linear from `start` to `end` over `warmup` values, both included, then constant."""
    return np.concatenate([np.linspace(start, end, warmup), np.full(total - warmup, end)])


class Rates(NamedTuple):
    """The values of all schedules in one iteration."""

    lr: float
    last_layer_lr: float
    weight_decay: float
    teacher_momentum: float
    teacher_temperature: float


class Schedules(NamedTuple):
    """All schedules of a run."""

    lr: Schedule
    last_layer_lr: Schedule
    """learning rate of the prototypes, 0 while they are frozen"""
    weight_decay: Schedule
    teacher_momentum: Schedule
    teacher_temperature: Schedule

    @property
    def total(self) -> int:
        """Number of iterations of the run."""
        return len(self.lr)

    def at(self, iteration: int) -> Rates:
        """Return the values of an iteration, from 0."""
        return Rates(*(float(schedule[iteration]) for schedule in self))


def make_schedules(params: Pretrain, epoch_length: int) -> Schedules:
    """Return the schedules of a run of `params.epochs` epochs of `epoch_length` iterations each."""

    def iterations(epochs: float) -> int:
        return min(round(epochs * epoch_length), total)

    total = max(round(params.epochs * epoch_length), 1)
    optimizer, losses = params.optimizer, params.losses
    peak = scaled_lr(optimizer, params.batch_size)
    lr = cosine(peak, optimizer.min_lr, total, iterations(optimizer.warmup_epochs))
    last_layer_lr = lr.copy()
    last_layer_lr[: iterations(optimizer.freeze_last_layer_epochs)] = 0
    return Schedules(
        lr,
        last_layer_lr,
        cosine(*optimizer.weight_decay, total),
        cosine(*optimizer.teacher_momentum, total),
        linear(*losses.teacher_temperature, total, iterations(losses.teacher_warmup_epochs)),
    )
