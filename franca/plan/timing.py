"""Measured training speed on this machine, without prepared images."""

import os
import time
from statistics import median

import numpy as np
import torch
from PIL import Image

from franca.data.views.multi_crop import MultiCrop
from franca.params import Params
from franca.plan.random_step import RATES, make_step, random_part
from franca.pretrain.microbatch import count_parts
from franca.pretrain.setup import choose_precision
from franca.runtime import choose_device, configure_torch

WARM_UP_STEPS, TIMED_STEPS = 2, 5


def images_per_second(params: Params, samples: list[Image.Image], decode_seconds: float) -> float:
    """Measure how many images a second this machine trains on, in one process.

    A few steps are timed on random crops, and the cropping of `samples` by Pillow. Loading runs beside the training in
    `runtime.workers` processes, or in as many as there are cores left, so the slower of the two sets the speed.

    Args:
        params: The run.
        samples: Images of the data set.
        decode_seconds: Time to read and decode one image, in seconds.
    """
    load = decode_seconds + _crop_seconds(params, samples)
    step = _step_seconds(params) / params.pretrain.batch_size
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = min(params.runtime.workers, cores - params.runtime.threads)
    return 1 / max(step, load / workers) if workers > 0 else 1 / (step + load)


def _crop_seconds(params: Params, samples: list[Image.Image]) -> float:
    """Return the time to cut all crops of one image, in seconds."""
    multi_crop = MultiCrop(params.base.image_size, params.pretrain.crops, params.pretrain.augment)
    draws = multi_crop.draw(np.random.default_rng(0), len(samples), slice(None))
    start = time.perf_counter()
    multi_crop.views(((image, (0, 0, *image.size)) for image in samples), draws)
    return (time.perf_counter() - start) / len(samples)


def _step_seconds(params: Params) -> float:
    """Return the median time of a training step on random crops, in seconds."""
    configure_torch(params.runtime)
    device = choose_device(params.runtime)
    train_step = make_step(params, device, choose_precision(params.pretrain.precision, device))
    count, times = count_parts(params.pretrain.batch_size, params), []
    for step in range(1, WARM_UP_STEPS + TIMED_STEPS + 1):
        parts = [random_part(params, step, device, params.pretrain.batch_size // count) for _ in range(count)]
        start = time.perf_counter()
        train_step(parts, RATES, step)
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return median(times[WARM_UP_STEPS:])
