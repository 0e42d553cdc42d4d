"""The product's step (`franca.pretrain.step`), with random weights and no checkpoints."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch

from benchmarks.step_setting import LEARNING_RATE, MOMENTUM, WEIGHT_DECAY, Setting
from franca.data.views.batch import RawBatch
from franca.data.views.multi_crop import stack
from franca.pretrain.microbatch import Part
from franca.pretrain.parallel import Ranks
from franca.pretrain.schedules import Rates
from franca.pretrain.setup import compile_blocks, make_networks
from franca.pretrain.step import TrainStep
from franca.runtime import configure_torch


def franca_crops(setting: Setting) -> Part:
    cuts = setting.multi_crop.cuts(setting.draws(), setting.side)
    batch = RawBatch(stack(setting.images(), setting.side), *cuts, setting.masks())
    return setting.split(batch)[0]


class FrancaStep(TrainStep):
    def __init__(self, setting: Setting) -> None:
        configure_torch(setting.params.runtime)
        student, teacher = make_networks(setting.params, setting.device)
        if setting.params.runtime.compile:
            compile_blocks(student, teacher)
        precision = "bf16" if setting.bf16 else "fp32"
        super().__init__(setting.params, student, teacher, student, setting.device, precision)
        self._setting = setting
        self._rates = Rates(LEARNING_RATE, LEARNING_RATE, WEIGHT_DECAY, MOMENTUM, setting.temperature)
        self._clock: Callable[[], float] | None = None
        self.seconds: dict[str, float] = {}

    def crops(self) -> Part:
        with self.phase("crops"):
            return franca_crops(self._setting)

    def backward(self, part: Part) -> torch.Tensor:
        """Leave the gradients in the student; return the loss."""
        self.gradients([part], self._setting.temperature)
        return torch.tensor(self.meter.read(Ranks())["train/loss"], device=self._device)

    def train(self, crops: Part) -> None:
        self([crops], self._rates, 1)

    def time_phases(self, clock: Callable[[], float]) -> None:
        """Add up the seconds of each phase in `seconds` from now on; `clock` waits for the device."""
        self._clock = clock

    def phase(self, name: str) -> AbstractContextManager[object]:
        return super().phase(name) if self._clock is None else self._timed(name, self._clock)

    @contextmanager
    def _timed(self, name: str, clock: Callable[[], float]) -> Iterator[None]:
        start = clock()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + clock() - start
