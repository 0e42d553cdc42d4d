"""Run the images of several requests through the model together."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray

from franca.models import FrancaModel
from franca.serving.metrics import Metrics

Vectors = NDArray[np.float32]


class Output(NamedTuple):
    """Features of the images of one request.

    Attributes:
        pooled: (N, D) float32.
        patches: (N, h, w, D) float32, None if they were not asked for.
    """

    pooled: Vectors
    patches: Vectors | None


class _Job(NamedTuple):
    model: FrancaModel
    pixels: NDArray[np.uint8]
    patches: bool
    result: "asyncio.Future[Output]"


class Batcher:
    """Collect images while the model is busy, and for a few milliseconds if it is not.

    A single thread runs the model. Requests that wait for it meanwhile make the next batch, so that the wait of
    `seconds` matters to the first request of an idle server only. A batch has images of one model: requests that were
    decoded for the model before a reload are still answered by it.
    """

    def __init__(self, size: int, seconds: float, metrics: Metrics) -> None:
        """Create a batcher; use it as an asynchronous context manager.

        Args:
            size: Images of a batch. A request with more is split.
            seconds: Time to wait for further requests.
            metrics: Where batches are counted.
        """
        self._size, self._seconds, self._metrics = size, seconds, metrics
        self._jobs: asyncio.Queue[_Job] = asyncio.Queue()
        self._thread = ThreadPoolExecutor(1, "model")
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._work())
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._task is not None:
            self._task.cancel()
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def run(self, model: FrancaModel, pixels: NDArray[np.uint8], patches: bool) -> Output:
        """Return the features of images.

        Args:
            model: The model that they were decoded for.
            pixels: (N, side, side, 3) uint8.
            patches: Whether to return patches as well.
        """
        job = _Job(model, pixels, patches, asyncio.get_running_loop().create_future())
        self._jobs.put_nowait(job)
        return await job.result

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        following: _Job | None = None
        while True:
            jobs = [following or await self._jobs.get()]
            following = None
            deadline, count = loop.time() + self._seconds, len(jobs[0].pixels)
            while count < self._size:
                try:
                    async with asyncio.timeout_at(deadline):
                        job = await self._jobs.get()
                except TimeoutError:
                    break
                if job.model is not jobs[0].model or count + len(job.pixels) > self._size:
                    following = job
                    break
                jobs.append(job)
                count += len(job.pixels)
            jobs = [job for job in jobs if not job.result.cancelled()]
            if jobs:
                await self._answer(jobs, loop.run_in_executor)

    async def _answer(self, jobs: list[_Job], execute: Callable[..., "asyncio.Future[list[Output]]"]) -> None:
        try:
            self._metrics.batch.observe(sum(len(job.pixels) for job in jobs))
            outputs = await execute(self._thread, _compute, jobs, self._size)
        except Exception as error:  # such as too little GPU memory: of these requests, not of the loop
            for job in jobs:
                if not job.result.done():
                    job.result.set_exception(error)
            return
        for job, output in zip(jobs, outputs, strict=True):
            if not job.result.done():
                job.result.set_result(output)


@torch.inference_mode()
def _compute(jobs: list[_Job], size: int) -> list[Output]:
    """Run the model on all images of the jobs, at most `size` at a time."""
    model, wanted = jobs[0].model, any(job.patches for job in jobs)
    device = next(model.parameters()).device
    images = torch.from_numpy(np.concatenate([job.pixels for job in jobs])).permute(0, 3, 1, 2).contiguous()
    pooled, patches = [], []
    for part in images.split(size):
        features = model(part.to(device))
        pooled.append(features.pooled.cpu().numpy())
        if wanted:
            patches.append(features.patches.cpu().numpy())
    ends = np.cumsum([len(job.pixels) for job in jobs])[:-1]
    vectors = np.split(np.concatenate(pooled), ends)
    maps = np.split(np.concatenate(patches), ends) if wanted else [None] * len(jobs)
    return [Output(a, b if job.patches else None) for job, a, b in zip(jobs, vectors, maps, strict=True)]
