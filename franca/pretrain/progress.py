"""Progress of a run for its user: a bar on a terminal, plain lines elsewhere, and warnings about collapse."""

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
"""Steps before profiling starts."""


class TrainingProgress:
    """A display of step, loss, online k-NN, images per second and time left."""

    LINE_SECONDS = 15.0
    """Shortest time between two plain lines."""
    WARM_UP_STEPS = 5
    """First steps that do not count for the rate: on a GPU they compile."""

    def __init__(self, start: int, total: int, batch_size: int, quiet: bool) -> None:
        """Start the display.

        Args:
            start: Number of steps done before this process started.
            total: Number of steps of the run.
            batch_size: Images per step, over all processes.
            quiet: Whether to print nothing, in all processes but the first.
        """
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
        """Images per second since the warm-up steps."""
        counted = self._done - self.WARM_UP_STEPS
        return max(counted, 0) * self._batch_size / max(time.monotonic() - self._since, 1e-9)

    def advance(self) -> None:
        """Count one step."""
        self._done += 1
        self._bar.update()
        if self._done == self.WARM_UP_STEPS:
            self._since = time.monotonic()

    def show(self, metrics: dict[str, float]) -> None:
        """Store new metrics, and warn if they show signs of collapse."""
        self._metrics |= metrics
        warning = collapse_warning(self._metrics)
        if warning and warning != self._warning and not self._quiet:
            tqdm.write(warning, file=sys.stderr)
        self._warning = warning

    def log(self, step: int, loss: float) -> None:
        """Show the step with the current loss and the newest k-NN accuracy."""
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
        """Remove the bar."""
        self._bar.close()


def traced(steps: int, path: Path) -> AbstractContextManager[Any]:
    """Return a context that profiles `steps` steps after the first ten.

    The context yields an object whose `step()` must be called after each step, or None if `steps` is 0.

    Args:
        steps: Number of steps to profile.
        path: File for the trace, which chrome://tracing and Perfetto read.
    """
    if not steps:
        return nullcontext()
    return torch.profiler.profile(
        schedule=torch.profiler.schedule(wait=_UNTRACED - 1, warmup=1, active=steps, repeat=1),
        on_trace_ready=lambda profiler: profiler.export_chrome_trace(str(path)),
    )
