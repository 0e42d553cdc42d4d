"""Timing of a device that works asynchronously."""

import time
from collections.abc import Callable

import torch


def now(device: torch.device) -> float:
    """Return the time in seconds after the device has finished all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def best_seconds(function: Callable[[], object], device: torch.device, rounds: int = 5, calls: int = 5) -> float:
    """Return the seconds per call in the fastest of `rounds` rounds of `calls` calls, after one warm-up call."""
    function()
    times = []
    for _ in range(rounds):
        start = now(device)
        for _ in range(calls):
            function()
        times.append((now(device) - start) / calls)
    return min(times)
