"""4: a step in which the host waits for the device raises an error."""

from collections.abc import Iterator

import torch

from benchmarks.gpu_check.finding import Finding, holds, left_out
from benchmarks.gpu_check.subject import tiny_params
from franca.plan.random_step import RATES, make_step, random_microbatch


def run(device: torch.device) -> Iterator[Finding]:
    """Take a step under the synchronization debug mode of CUDA, eager and compiled."""
    if device.type != "cuda":
        yield left_out(
            "host waits in a step", "needs CUDA's synchronization debug mode; tests use fake tensors instead"
        )
        return
    for compiled in (False, True):
        params = tiny_params({"runtime.compile": compiled})
        step = make_step(params, device, "bf16")
        for number in range(1, 4):  # the first steps create optimizer state and compile
            step([random_microbatch(params, number, device)], RATES, number)
        microbatch = random_microbatch(params, 4, device)
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            step([microbatch], RATES, 4)
            fault = ""
        except RuntimeError as error:
            fault = str(error).splitlines()[0]
        finally:
            torch.cuda.set_sync_debug_mode("default")
        yield holds(f"host waits in a step, compile {compiled}", not fault, fault or "none", "none")
