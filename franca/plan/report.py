"""The `franca plan` command, and the same estimate at the start of a run on GPUs."""

import os
from collections.abc import Callable, Iterator

from franca.data.store.prepared import Store
from franca.errors import FrancaError
from franca.params import Params
from franca.paths import PREPARED
from franca.plan.estimate import ASSIGNMENT, EFFICIENCY, Plan, make_plan
from franca.plan.hardware import ASSUMED, GIB, Card, card_at_hand
from franca.pretrain.parallel import Ranks


def run(params: Params, *, gpus: int | None, memory: float | None, tflops: float | None) -> None:
    """Print the plan of the run that `params` describe.

    Args:
        params: the run.
        gpus: GPUs of all nodes, None for `runtime.processes`.
        memory: of each GPU in GiB, None for that of the GPU at hand or the assumed one.
        tflops: dense bfloat16 peak of each GPU, None for that of the GPU at hand or the assumed one. Without it, the
            speed is unknown for a GPU of other memory.

    Raises:
        FrancaError: nothing is trained, an argument is out of range, the batch cannot be shared by so many processes,
            or the run does not fit.
    """
    if not params.pretrain.epochs:
        raise FrancaError("pretrain.epochs: 0 trains nothing; set the epochs of the run to plan it")
    for name, value in (("number of GPUs", gpus), ("GPU memory", memory), ("TFLOPS", tflops)):
        if value is not None and not 0 < value < float("inf"):
            raise FrancaError(f"{name}: {value:g} is not above 0 and finite; give another number")
    card = card_at_hand() or ASSUMED
    if memory is not None:
        card = Card(f"a GPU of {memory:g} GiB", int(memory * GIB), None)
    if tflops is not None:
        card = card._replace(tflops=tflops)
    images = len(Store(PREPARED).images("train")) if (PREPARED / "manifest.json").is_file() else None
    bf16 = params.pretrain.precision != "fp32"
    plan = make_plan(params, gpus or params.runtime.processes, params.runtime.processes, card, bf16, images)
    print("\n".join(lines(params, plan)))
    refuse_too_large(params, plan)


def check_memory(params: Params, ranks: Ranks, precision: str, images: int, say: Callable[[str], object]) -> None:
    """Say the plan of a run that starts on this machine's GPU; every rank computes it, the first one says it.

    Raises:
        FrancaError: the run does not fit.
    """
    per_node = int(os.environ.get("LOCAL_WORLD_SIZE", ranks.count))
    card = card_at_hand() or ASSUMED
    plan = make_plan(params, ranks.count, per_node, card, precision == "bf16", images)
    if ranks.first:
        say("\n".join(lines(params, plan)))
    refuse_too_large(params, plan)


def lines(params: Params, plan: Plan) -> Iterator[str]:
    """Yield the lines of a plan's text."""
    backbone, pretrain = params.base.backbone, params.pretrain
    yield (
        f"Plan, computed and not measured: ViT {backbone.embed_dim} wide, {backbone.depth} blocks,"
        f" {params.base.image_size} px, {plan.parameters / 1e6:,.0f} M weights with heads"
    )
    gpus = "1 GPU" if plan.gpus == 1 else f"{plan.gpus} GPUs, {params.runtime.parallel}"
    yield f"{gpus} ({plan.card.name}); batch {pretrain.batch_size:,}"
    cut = "at once" if plan.parts == 1 else f"in {plan.parts} parts of {plan.images // plan.parts}"
    yield f"Images a GPU a step: {plan.images}, {cut}"
    yield "Memory of a GPU, GiB:"
    for name, part in plan.memory.items():
        yield f"  {name:38}{part / GIB:7.1f}"
    yield f"  {'total':38}{plan.needed / GIB:7.1f} of {plan.card.memory / GIB:.1f}"
    yield from _speed(params, plan)
    copies = params.runtime.keep_checkpoints + 1
    size = plan.checkpoint / GIB
    yield f"Checkpoint: {size:.1f} GiB; {copies} at a time {copies * size:.0f} GiB"


def _speed(params: Params, plan: Plan) -> Iterator[str]:
    executed, paper = (flops / plan.images / 1e12 for flops in (plan.flops, plan.paper_flops))
    yield (
        f"TFLOPs an image: {executed:.2f} executed,"
        f" {paper:.2f} as papers count (no stochastic depth, nothing recomputed)"
    )
    seconds = plan.step_seconds
    if seconds is None:
        missing = "the GPU's peak is unknown, give --tflops" if plan.bf16 else "precision fp32 has no assumed rate"
        yield f"Speed: unknown ({missing})"
    else:
        yield (
            f"Speed: {plan.images / seconds:,.0f} images/s a GPU, {plan.gpus * plan.images / seconds:,.0f} in all,"
            f" {seconds:.3g} s a step, assuming an MFU of {EFFICIENCY:.0%} executed"
            f" ({EFFICIENCY * plan.paper_flops / plan.flops:.0%} as papers count) of {plan.card.tflops:g} TFLOPS"
        )
    epochs = params.pretrain.epochs
    if plan.steps is None:
        yield f"Run: {epochs:g} epochs of unknown length; run `franca prepare` or set pretrain.epoch_length"
    elif plan.days is None:
        yield f"Run: {plan.steps:,} steps"
    else:
        length = f"{plan.days:,.1f} days" if plan.days >= 1 else f"{24 * plan.days:.2g} hours"
        yield f"Run: {plan.steps:,} steps, {length}"


def refuse_too_large(params: Params, plan: Plan) -> None:
    """Raise FrancaError if a plan needs more memory than the card has; names the settings that would help."""
    if plan.needed <= plan.card.memory:
        return
    koleo_images, runtime = params.pretrain.losses.koleo_images, params.runtime
    helps = []
    if ASSIGNMENT not in plan.memory:  # else the peak is before there are activations
        if plan.images // plan.parts > koleo_images:
            helps.append(f"a smaller runtime.microbatch (at least {koleo_images})")
        if not runtime.activation_checkpointing:
            helps.append("runtime.activation_checkpointing: true")
    if plan.gpus > 1 and runtime.parallel == "ddp":
        helps.append("runtime.parallel: fsdp")
    if plan.images > koleo_images:
        helps.append("more processes")
    if not helps:
        helps.append("a smaller model, fewer pretrain.heads.prototypes or a GPU with more memory")
    raise FrancaError(
        f"runtime: a step needs {plan.needed / GIB:.1f} GiB of memory on each GPU (computed), {plan.card.name} has"
        f" {plan.card.memory / GIB:.1f}; use {', '.join(helps[:-1])}{' or ' if helps[1:] else ''}{helps[-1]}"
    )
