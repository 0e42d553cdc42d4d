"""The section `runtime`: devices, processes, logging and checkpoints."""

from typing import Literal

from pydantic import Field

from franca.params.section import Count, Section


class Runtime(Section):
    """The section `runtime`: what can change a result by no more than its last bits."""

    device: Literal["auto", "cpu", "cuda"] = Field(description="Device of all tensors; auto is a GPU if there is one.")
    processes: Count = Field(
        description="Number of training processes on this machine, one per GPU; torchrun's own number wins."
    )
    parallel: Literal["ddp", "fsdp", "hsdp"] = Field(
        description="Replicate weights (ddp), or shard them over all processes (fsdp) or within a machine (hsdp)."
    )
    microbatch: Count | None = Field(
        description="Maximum number of images that a process computes at once; null for no limit."
    )
    activation_checkpointing: bool = Field(
        description="Recompute activations in the backward pass: less memory, about 25 % more time for a step."
    )
    compile: bool = Field(description="Compile the transformer blocks with torch.compile; faster on GPUs.")
    threads: Count = Field(description="Number of CPU threads of torch; changes the last bits of a result.")
    deterministic: Literal["strict", "off"] = Field(
        description="GPU reruns are bit-identical but slower (strict), or equal up to rounding (off)."
    )
    workers: int = Field(
        ge=0, description="Number of processes that load images; 0 loads them in the training process."
    )
    log_steps: Count = Field(description="Interval of log lines, in steps.")
    checkpoint_steps: Count = Field(description="Interval of checkpoints, in steps.")
    keep_checkpoints: Count = Field(description="Number of newest checkpoints to keep.")
    milestone_steps: Count | None = Field(
        description="Interval of checkpoints that are never deleted, in steps; null for none."
    )
    profile_steps: int = Field(
        ge=0, description="Number of steps that torch.profiler records after the first ten; 0 for none."
    )
