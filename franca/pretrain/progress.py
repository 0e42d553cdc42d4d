"""What a person sees of a run: a bar on a terminal, plain lines elsewhere, warnings where something looks ill."""

import sys
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from franca.pretrain.monitor import collapse_warning
from franca.pretrain.online import KNN, PIXELS, RANDOM

_UNTRACED = 10


class Progress:
    """A bar on a terminal, plain lines elsewhere: step, loss, online k-NN, images a second, time left."""

    LINE_SECONDS = 15.0
    WARM_UP_STEPS = 5

    def __init__(self, start: int, total: int, batch_size: int, quiet: bool) -> None:
        self._bar = tqdm(
            total=total,
            initial=start,
            unit="step",
            desc="pretrain",
            dynamic_ncols=True,
            disable=quiet or not sys.stderr.isatty(),
        )
        self._quiet = quiet
        self._batch_size, self._total = batch_size, total
        self._done = 0
        self._since = self._line_at = time.monotonic()
        self._metrics: dict[str, float] = {}
        self._warning: str | None = None

    @property
    def rate(self) -> float:
        """Images a second since the first few steps."""
        counted = self._done - self.WARM_UP_STEPS
        return max(counted, 0) * self._batch_size / max(time.monotonic() - self._since, 1e-9)

    def advance(self) -> None:
        self._done += 1
        self._bar.update()
        if self._done == self.WARM_UP_STEPS:
            self._since = time.monotonic()

    def show(self, metrics: dict[str, float]) -> None:
        """Take in new metrics, and warn if they show signs of collapse."""
        self._metrics |= metrics
        warning = collapse_warning(self._metrics)
        if warning and warning != self._warning and not self._quiet:
            tqdm.write(warning, file=sys.stderr)
        self._warning = warning

    def log(self, step: int, loss: float) -> None:
        """Show how far the run is, with its present loss and the newest k-NN."""
        if self._quiet:
            return
        status = f"loss {loss:.3f}{self._knn()}  {self.rate:.0f} images/s"
        self._bar.set_postfix_str(status)
        now = time.monotonic()
        if self._bar.disable and (now - self._line_at > self.LINE_SECONDS or step == self._total):
            self._line_at = now
            left = (self._total - step) * self._batch_size / max(self.rate, 1e-9)
            print(f"pretrain  step {step}/{self._total}  {status}  {left / 60:.1f} min left", flush=True)

    def _knn(self) -> str:
        if KNN not in self._metrics:
            return ""
        top1, random, pixels = (self._metrics[KNN + ending] for ending in ("", RANDOM, PIXELS))
        return f"  k-NN on val {top1:.1f} (random weights {random:.1f}, pixels {pixels:.1f})"

    def close(self) -> None:
        self._bar.close()


def traced(steps: int, path: Path) -> AbstractContextManager[Any]:
    """torch.profiler over `steps` steps after the first ten, written to `path` for chrome://tracing or Perfetto.

    Yields an object whose `step()` is called once a step, or None where there is nothing to trace.
    """
    if not steps:
        return nullcontext()
    return torch.profiler.profile(
        schedule=torch.profiler.schedule(wait=_UNTRACED - 1, warmup=1, active=steps, repeat=1),
        on_trace_ready=lambda profiler: profiler.export_chrome_trace(str(path)),
    )
