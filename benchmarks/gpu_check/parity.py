"""3: the same steps on the CPU and on this device, with the same weights, crops, masks and draws of stochastic depth.

Without a GPU, the step is compared with itself, which must be reproducible, and bf16 with float32.
"""

from collections import defaultdict
from collections.abc import Iterator

import torch
from torch import Tensor

from benchmarks.gpu_check.finding import Finding, at_most
from benchmarks.gpu_check.subject import draws_on_cpu, mean_loss, relative, tiny_params
from franca.params import Params
from franca.plan.random_step import RATES, make_step, random_microbatch
from franca.pretrain.step import TrainStep
from franca.runtime import configure_torch

CPU = torch.device("cpu")


def run(device: torch.device) -> Iterator[Finding]:
    """Compare losses, gradients and weights of the device with those of the CPU."""
    on_gpu = device.type == "cuda"
    params = tiny_params({} if on_gpu else {"pretrain.batch_size": 8, "base.backbone.depth": 2})
    configure_torch(params.runtime)
    both = f"CPU and {'GPU' if on_gpu else 'CPU'}"
    with draws_on_cpu():
        expected, got = make_step(params, CPU, "fp32"), make_step(params, device, "fp32")
        loss, gradients = _gradients(expected, params, CPU)
        own_loss, own_gradients = _gradients(got, params, device)
        yield at_most(f"float32 loss, {both}: relative difference", abs(own_loss / loss - 1), 1e-5)
        faults = {name: relative(own_gradients[name], gradients[name]) for name in gradients}
        worst = max(faults, key=faults.__getitem__)
        # 1.4e-4 on an H100, for the MLPs of the patch head: targets are exponentials of logits over 0.06.
        yield at_most(f"float32 gradients, {both}: worst module ({worst})", faults[worst], 3e-4)

        half = make_step(params, device, "bf16")
        half_loss, half_gradients = _gradients(half, params, device)
        yield at_most("bf16 loss against float32: relative difference", abs(half_loss / own_loss - 1), 2e-2)
        whole = [torch.cat(list(of.values())) for of in (half_gradients, own_gradients)]
        yield Finding("bf16 gradients against float32: relative difference", f"{relative(*whole):.3g}")

        count = 20 if on_gpu else 2
        worst_loss = 0.0
        for number in range(1, count + 1):
            losses = [_train(step, params, where, number) for step, where in ((expected, CPU), (got, device))]
            worst_loss = max(worst_loss, abs(losses[1] / losses[0] - 1))
        yield at_most(f"{count} float32 steps, {both}: worst loss", worst_loss, 1e-3)
        weights = [
            torch.cat([p.detach().flatten().cpu() for p in step.student.parameters()]) for step in (got, expected)
        ]
        yield at_most(f"{count} float32 steps, {both}: all weights", relative(*weights), 1e-3)


def _gradients(step: TrainStep, params: Params, device: torch.device) -> tuple[float, dict[str, Tensor]]:
    """Return the loss of batch 0 and its gradients on the CPU, as one vector per module."""
    torch.manual_seed(0)
    step.gradients([random_microbatch(params, 0, device)], RATES.teacher_temperature)
    modules: dict[str, list[Tensor]] = defaultdict(list)
    for name, parameter in step.student.named_parameters():
        assert parameter.grad is not None
        parts = name.split(".")
        modules[".".join(parts[: 3 if "blocks" in parts else 2])].append(parameter.grad.flatten().cpu())
    step.optimizer.zero_grad(set_to_none=True)
    return mean_loss(step), {name: torch.cat(gradients) for name, gradients in modules.items()}


def _train(step: TrainStep, params: Params, device: torch.device, number: int) -> float:
    torch.manual_seed(number)
    step([random_microbatch(params, number, device)], RATES, number)
    return mean_loss(step)
