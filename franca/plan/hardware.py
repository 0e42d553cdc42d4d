"""Memory and peak rate of the GPU of this machine, or of the one that a plan assumes."""

import re
from typing import NamedTuple

import torch

GIB = 1 << 30

PEAKS = {
    r"H100 PCIe": 756.0,
    r"H100 NVL": 835.0,
    r"H100": 989.0,
    r"H200": 989.0,
    r"A100": 312.0,
    r"L40S": 362.0,
    r"RTX 4090$": 165.0,
}
"""Dense bfloat16 TFLOPS of NVIDIA's data sheets, float32 accumulation, by a pattern of `torch.cuda.get_device_name`.

The first match is used. If a data sheet states the rate with sparsity, this is half of it.
"""


class Gpu(NamedTuple):
    """A GPU: its name, memory in bytes and dense bfloat16 peak in TFLOPS (None if unknown)."""

    name: str
    memory: int
    tflops: float | None


ASSUMED = Gpu("an H100 of 80 GB, assumed", int(79.1 * GIB), PEAKS["H100"])
"""The memory is what `total_memory` reports, which is less than 80 GB."""


def peak_tflops(name: str) -> float | None:
    """Return the dense bfloat16 peak in TFLOPS by the name that torch reports for a GPU, or None if it is unknown."""
    return next((peak for pattern, peak in PEAKS.items() if re.search(pattern, name)), None)


def current_gpu() -> Gpu | None:
    """Return the current GPU, or None if there is none."""
    if not torch.cuda.is_available():
        return None
    about = torch.cuda.get_device_properties(torch.cuda.current_device())
    return Gpu(about.name, about.total_memory, peak_tflops(about.name))
