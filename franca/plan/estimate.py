"""Compute memory, speed and length of a pretraining run before it starts."""

from typing import NamedTuple

import torch

from franca.losses.chunks import ELEMENTS, MIN_ROWS
from franca.models.heads import NestedHead
from franca.params import Params
from franca.plan.counting import Forward, count_student, head_rows, teacher_flops, undropped_flops
from franca.plan.hardware import GIB, Gpu
from franca.pretrain.microbatch import count_microbatches
from franca.pretrain.parallel import Ranks, local_images

EFFICIENCY = 0.30
"""Executed FLOPs as a share of the dense bfloat16 peak: ViT-L/14, 64 images on one H100 (benchmarks/GPU.md).

Assumed for other models, other GPUs and several GPUs, which have not been timed.
"""
COMPILED_SAVED = 0.8
"""Memory that compiled blocks save for backward, relative to eager blocks.

Counted on a CPU, AOTAutograd's partitioner saves 0.76 to 0.80.
"""
CONTEXT = 4 * GIB
"""CUDA context, NCCL's buffers, workspaces of cuBLAS and cuDNN, fragmentation. Assumed."""
ASSIGNMENT = "assignment of the whole share"
"""Name of the entry of `Plan.memory` if the peak of a step is before the student's forward pass."""
FLOAT32 = 4


class Plan(NamedTuple):
    """Computed requirements of a run on each GPU; memory in bytes."""

    gpu: Gpu
    """model of the GPUs"""
    gpus: int
    """number of GPUs of all nodes"""
    images: int
    """images of a GPU in each step"""
    microbatches: int
    """number of microbatches that these images are split into"""
    memory: dict[str, int]
    """memory at the peak of a step, by purpose"""
    flops: int
    """FLOPs that a GPU executes in each step"""
    paper_flops: int
    """FLOPs of a step as papers count them: without stochastic depth, nothing recomputed"""
    steps: int | None
    """steps of the whole run, None if the number of training images is unknown"""
    parameters: int
    """weights of the student"""
    checkpoint: int
    """bytes of one checkpoint"""
    bf16: bool
    """whether the networks run under autocast to bfloat16"""

    @property
    def needed(self) -> int:
        """Bytes of memory that each GPU needs."""
        return sum(self.memory.values())

    @property
    def step_seconds(self) -> float | None:
        """Seconds for each step; None if the GPU's peak is unknown or the run is not in bfloat16."""
        if self.gpu.tflops is None or not self.bf16:
            return None
        return self.flops / (self.gpu.tflops * 1e12 * EFFICIENCY)

    @property
    def days(self) -> float | None:
        """Days for the whole run, or None if the speed or the number of steps is unknown."""
        seconds = self.step_seconds
        return None if seconds is None or self.steps is None else self.steps * seconds / 86400


def make_plan(params: Params, gpus: int, per_node: int, gpu: Gpu, bf16: bool, train_images: int | None) -> Plan:
    """Compute what a run requires.

    Args:
        params: The run.
        gpus: Number of GPUs of all nodes, one process each.
        per_node: Number of GPUs of each node.
        gpu: Model of the GPUs.
        bf16: Whether the networks run under autocast to bfloat16.
        train_images: Number of training images, or None if it is unknown; needed if pretrain.epoch_length is null.

    Raises:
        FrancaError: The batch cannot be divided among that many processes.
    """
    images = len(local_images(params, Ranks(0, gpus)))
    parts = count_microbatches(images, params)
    part = images // parts
    student = count_student(params, part, bf16)
    recomputed = student.block_flops if params.runtime.activation_checkpointing else 0
    others = parts * teacher_flops(params, part) + _loss_flops(params, images)
    remade = _teacher_logits_flops(params, images) if parts > 1 else 0
    undropped = undropped_flops(params, part) if params.pretrain.drop_path else student.flops
    return Plan(
        gpu=gpu,
        gpus=gpus,
        images=images,
        microbatches=parts,
        memory=_memory(params, student, gpus, per_node, images, parts, bf16),
        flops=parts * (3 * student.flops + recomputed) + others + remade,
        paper_flops=parts * 3 * undropped + others,
        steps=_steps(params, train_images),
        parameters=student.parameters,
        checkpoint=4 * FLOAT32 * student.parameters,  # student, teacher and two moments
        bf16=bf16,
    )


def _steps(params: Params, train_images: int | None) -> int | None:
    """Return the steps of the whole run, or None if the number of training images is needed and unknown."""
    length = params.pretrain.epoch_length or (train_images and train_images // params.pretrain.batch_size)
    return round(params.pretrain.epochs * length) if length else None


def _level_counts(params: Params) -> tuple[int, ...]:
    """Return the number of prototypes of each level of a head."""
    with torch.device("meta"):
        return NestedHead(params.base.backbone.embed_dim, params.pretrain.heads).counts


def _teacher_logits_flops(params: Params, images: int) -> int:
    """Return the FLOPs of the teacher's logits for `images` images."""
    rows = 2 * images + head_rows(params, images).patches
    return 2 * rows * sum(_level_counts(params)) * params.pretrain.heads.bottleneck_dim


def _loss_flops(params: Params, images: int) -> int:
    """Return the FLOPs of products with prototypes: logits of teacher and student, and the student's two gradients."""
    student = 2 * sum(head_rows(params, images)) * sum(_level_counts(params)) * params.pretrain.heads.bottleneck_dim
    return _teacher_logits_flops(params, images) + 3 * student


def _memory(
    params: Params, student: Forward, gpus: int, per_node: int, images: int, parts: int, bf16: bool
) -> dict[str, int]:
    """Return the bytes that a GPU needs at the peak of a step, by purpose.

    The peak is in the losses of a microbatch, when all activations of the student are saved. With several microbatches
    it may instead be in the assignment of the whole share, before there are activations.
    """
    runtime = params.runtime
    sharded = gpus > 1 and runtime.parallel != "ddp"
    shards = {"ddp": 1, "fsdp": gpus, "hsdp": min(gpus, per_node)}[runtime.parallel]
    weights = FLOAT32 * student.parameters
    low = 2 if bf16 else FLOAT32

    # one value, or several, for each weight
    memory = {
        "weights of student and teacher": 2 * weights // shards,
        # FSDP2 accumulates the unsharded gradients of all microbatches and reduces them after the last one.
        "gradients": weights // shards + (weights if sharded and parts > 1 else 0),
        "AdamW moments": 2 * weights // shards,
    }
    if sharded:
        # The student's heads and root stay gathered in float32, with their gradients. Two blocks at a time are
        # gathered, each with its gradient and a float32 copy of the gradient for the reduction.
        rest = FLOAT32 * (student.parameters - student.block_parameters)
        block = student.block_parameters // params.base.backbone.depth
        memory["FSDP: gathered weights"] = rest * (1 if parts > 1 else 2) + 2 * block * (2 * low + FLOAT32)

    # inputs
    crops = params.pretrain.crops
    pixels = 3 * (2 * params.base.image_size**2 + crops.local_count * crops.local_size**2)
    memory["crops"] = FLOAT32 * pixels * images

    # teacher's outputs of all microbatches, with one set of normalized prototypes
    counts, width = _level_counts(params), params.pretrain.heads.bottleneck_dim
    normalized = 2 * FLOAT32 * width * sum(counts)
    of_teacher = 2 * images + head_rows(params, images).patches
    hidden = of_teacher * len(counts) * width * (low + (FLOAT32 if parts > 1 else 0))
    memory["teacher's outputs"] = normalized + hidden

    # one of two phases
    student_phase = {
        "student: saved activations": _activations(params, student),
        "student: bfloat16 copies of weights": _copies(params, student, sharded),
        "student: prototypes": normalized,
        "losses": _losses(params, images // parts, parts > 1),
    }
    # The normalized prototypes of teacher and student are still in memory from the previous step.
    assignment_phase = {ASSIGNMENT: _assignment(params, images) + 2 * normalized}
    phases = (student_phase, assignment_phase) if parts > 1 else (student_phase,)
    return memory | max(phases, key=lambda phase: sum(phase.values())) | {"CUDA context, NCCL, workspaces": CONTEXT}


def _activations(params: Params, student: Forward) -> int:
    """Return the bytes that the student's forward pass over a microbatch saves, without copies of weights."""
    compiled = COMPILED_SAVED if params.runtime.compile else 1
    outside = student.saved - student.block_saved
    if params.runtime.activation_checkpointing:
        return outside + student.inputs + int(compiled * student.largest_block)
    return outside + int(compiled * student.block_saved)


def _copies(params: Params, student: Forward, sharded: bool) -> int:
    """Return the bytes of low-precision copies of weights that are saved for backward."""
    # FSDP2 gathers blocks in bfloat16 and frees them after use; a checkpointed block makes its copies again.
    in_blocks = 0 if sharded or params.runtime.activation_checkpointing else student.block_copies
    return student.copies - student.block_copies + in_blocks


def _losses(params: Params, images: int, several: bool) -> int:
    """Return the bytes that the losses of a microbatch of `images` images need at their peak.

    Levels are processed one at a time, the widest first, DINO before iBOT. The gradients of the prototypes (K, b) of
    finished levels stay in memory. With several microbatches, assignments (N, K) are recomputed chunk by chunk.
    """
    counts, width = _level_counts(params), params.pretrain.heads.bottleneck_dim
    widest, every = max(counts), sum(counts)
    rows = head_rows(params, images)
    # gradient of the prototypes, their bfloat16 copy, and a product to add to the gradient
    level = widest * width * (FLOAT32 + 2 + FLOAT32)
    # assignments of global crops and their sums for local crops; logits, targets and bfloat16 slopes of a chunk
    dino = FLOAT32 * widest * (2 + 3) * images + int(2.5 * _chunk(rows.classes, widest)) + level
    # assignments; logits and bfloat16 slopes of a chunk, and its targets if they are recomputed
    kept = 0 if several else FLOAT32 * widest * rows.patches
    ibot = FLOAT32 * width * every + kept + int((1.5 + several) * _chunk(rows.patches, widest)) + level
    return max(dino, ibot, 2 * FLOAT32 * width * every)


def _assignment(params: Params, images: int) -> int:
    """Return the bytes of the widest level's assignments (N, K) of a whole share; they overwrite the logits."""
    widest = max(_level_counts(params))
    patches = head_rows(params, images).patches
    return FLOAT32 * widest * max(patches, 2 * images)


def _chunk(rows: int, count: int) -> int:
    """Return the bytes of the logits that `losses.chunks` computes at once on a GPU."""
    return FLOAT32 * count * min(rows, max(MIN_ROWS, ELEMENTS["cuda"] // count))
