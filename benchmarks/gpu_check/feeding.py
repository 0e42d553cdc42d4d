"""11: the real loader feeds the real step with photographs of 500 x 375 pixels; the share of time the GPU waits.

On a GPU this is a compiled ViT-L/14 with 64 images and one loading process per core. A profiler trace of some steps is
written to `trace.json.gz` in the output folder (for chrome://tracing or Perfetto).
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

import torch

from benchmarks.gpu_check.finding import Finding
from benchmarks.gpu_check.images import make_store
from benchmarks.gpu_check.subject import make_params, tiny_params
from benchmarks.gpu_check.timing import now
from franca.data.views.batch import Batch, RawBatch
from franca.data.views.loader import StepDataset, StepLoader
from franca.params import ResolvedParams
from franca.plan.random_step import RATES, make_step
from franca.pretrain.microbatch import MicrobatchSplitter
from franca.pretrain.prefetch import Prefetch
from franca.pretrain.setup import choose_precision
from franca.runtime import configure_torch

SIZE = (500, 375)
"""Width and height of most images of ImageNet."""
IN_FLIGHT = 4
"""Batches that each loading process prepares in advance (`StepLoader`)."""
GPU_WARM_UP, GPU_STEPS, TRACED = 5, 20, 3


def run(device: torch.device) -> Iterator[Finding]:
    """Measure images per second of loader and step, alone and together."""
    on_gpu = device.type == "cuda"
    params = _params(on_gpu)
    configure_torch(params.runtime)
    warm_up, steps = (GPU_WARM_UP, GPU_STEPS) if on_gpu else (1, 3)
    images, workers = params.pretrain.batch_size, params.runtime.workers
    with tempfile.TemporaryDirectory() as folder:
        store = make_store(Path(folder), params, 256 if on_gpu else 32, SIZE, "jpg")
        dataset = StepDataset(store.images("train"), None, params.base, params.pretrain)
        prepared, measured = IN_FLIGHT * workers + 2, max(3 * workers, steps)
        total = warm_up + prepared + measured + warm_up + steps + TRACED + 1
        batches = Prefetch(StepLoader(dataset, 0, total, workers, pin=on_gpu))
        train = _Trainer(params, device)

        # Batches that are in memory already, each with different masks.
        kept = list(islice(batches, warm_up))
        train(kept)
        by_step = _seconds(lambda: train(kept[i % len(kept)] for i in range(steps)), device) / steps
        # Skip batches that were prepared in the meantime: they would count as loaded in no time.
        for _ in islice(batches, prepared):
            pass
        start = time.perf_counter()
        for _ in islice(batches, measured):
            pass
        by_loader = (time.perf_counter() - start) / measured
        # No batch is prepared now, so the loader must keep up from the first step on.
        train(islice(batches, warm_up))
        together = _seconds(lambda: train(islice(batches, steps)), device) / steps
        yield Finding("loader alone", f"{images / by_loader:.0f} images/s, {workers} processes")
        yield Finding("step alone, from decoded images in memory", f"{images / by_step:.1f} images/s")
        yield Finding("loader and step together", f"{images / together:.1f} images/s")
        yield Finding("time that the device waits for images", f"{max(1 - by_step / together, 0):.1%}")
        if on_gpu:
            path = Path(os.environ["FRANCA_GPU_CHECK_OUTPUT"]) / "trace.json.gz"
            with torch.profiler.profile() as profiler:
                train(islice(batches, TRACED))
                torch.cuda.synchronize(device)
            profiler.export_chrome_trace(str(path))
            yield Finding(f"trace of {TRACED} steps", str(path))


class _Trainer:
    """The training loop of the pretrain stage, without logs and checkpoints."""

    def __init__(self, params: ResolvedParams, device: torch.device) -> None:
        self._split = MicrobatchSplitter(params.base, device)
        self._step = make_step(params, device, choose_precision(params.pretrain.precision, device))

    def __call__(self, batches: Iterable[Batch | RawBatch]) -> None:
        for batch in batches:
            self._step(self._split(batch), RATES, 1)


def _params(on_gpu: bool) -> ResolvedParams:
    if not on_gpu:
        return tiny_params({"pretrain.batch_size": 8, "pretrain.precision": "fp32"})
    workers = len(os.sched_getaffinity(0))
    return make_params("vitl14-in21k", {"pretrain.batch_size": 64, "runtime.processes": 1, "runtime.workers": workers})


def _seconds(function: Callable[[], object], device: torch.device) -> float:
    start = now(device)
    function()
    return now(device) - start
