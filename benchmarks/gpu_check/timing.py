"""Time on a device that works beside the host."""

import time
from collections.abc import Callable

import torch


def now(device: torch.device) -> float:
    """Seconds, after everything that was asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def best_seconds(function: Callable[[], object], device: torch.device, rounds: int = 5, calls: int = 5) -> float:
    """Seconds of one call: the fastest of some rounds of several calls, after one call that warms up."""
    function()
    times = []
    for _ in range(rounds):
        start = now(device)
        for _ in range(calls):
            function()
        times.append((now(device) - start) / calls)
    return min(times)
