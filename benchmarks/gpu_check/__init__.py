"""Checks of the trainer on a GPU: `python -m benchmarks.gpu_check` (make gpu-check).

Each module is one group of checks, with a function `run(device)` that yields findings.
"""
