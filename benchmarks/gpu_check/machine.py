"""1: versions, and the rates of matrix products and copies, which limit everything else."""

import platform
from collections.abc import Callable, Iterator
from importlib import metadata

import torch

from benchmarks.gpu_check.finding import Finding
from benchmarks.gpu_check.timing import best_seconds
from franca.runtime import tf32


def run(device: torch.device) -> Iterator[Finding]:
    """Report versions and measure the rates of products and copies."""
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "torchvision", "timm"))
    yield Finding("versions", f"Python {platform.python_version()}, {versions}")
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        yield Finding("device", f"{properties.name}, {properties.total_memory / 2**30:.1f} GiB")
    side = 8192 if device.type == "cuda" else 256  # bf16 is slow without AVX512-bf16
    for name, dtype, allowed in (("bf16", torch.bfloat16, False), ("TF32", torch.float32, True)):
        matrix = torch.randn(side, side, device=device).to(dtype)
        with tf32(allowed):
            yield _rate(f"{name} product {side}", lambda m=matrix: m @ m, 2 * side**3, "TFLOP/s", device)  # type: ignore[misc]
    source = torch.empty(2**30 if device.type == "cuda" else 2**24, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    yield _rate("copy, read + written", lambda: target.copy_(source), 2 * source.numel(), "TB/s", device)


def _rate(check: str, function: Callable[[], object], amount: int, unit: str, device: torch.device) -> Finding:
    return Finding(check, f"{amount / best_seconds(function, device) / 1e12:.3g} {unit}")
