"""The models behind `params.yaml`: one section a stage, `base` for what several need, `runtime` for what cannot
change a result by more than its last bits. Every field is required: what the file shows is what runs."""

import json
import math
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from franca.benchmarks import BENCHMARKS, BY_NAME, MODELS
from franca.errors import FrancaError
from franca.yaml_file import read_yaml

Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Backbone(Section):
    patch_size: int = Field(ge=1, le=64, description="Side of a square patch, in pixels.")
    embed_dim: int = Field(ge=16, description="Width D of the embedding; a multiple of 16 so that five levels nest.")
    depth: Count = Field(description="Number of transformer blocks.")
    num_heads: Count = Field(description="Attention heads in each block.")
    ffn: Literal["mlp", "swiglu"] = Field(description="Feed-forward layer: GELU MLP, or SwiGLU as in the paper.")
    registers: int = Field(ge=0, description="Number of register tokens.")
    layer_scale: Positive = Field(description="Initial value of LayerScale.")
    position_resampling: Literal["offset", "antialias"] = Field(
        description="Positions of other image sizes: as in Franca and DINOv2, or antialiased as DINOv2 with registers."
    )

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        if self.embed_dim % 16 or self.embed_dim % self.num_heads:
            raise ValueError(f"embed_dim {self.embed_dim} must be a multiple of 16 and of num_heads {self.num_heads}")
        return self


class Base(Section):
    seed: int = Field(ge=0, lt=2**32, description="Seed of every random draw.")
    image_size: int = Field(ge=8, le=2048, description="Side of global crops and of evaluated images, in pixels.")
    mean: tuple[Probability, Probability, Probability] = Field(
        description="Channel means that the model takes out of images in 0..1 (prepared/manifest.json has the data's)."
    )
    std: tuple[Positive, Positive, Positive] = Field(
        description="Channel standard deviations that the model divides by."
    )
    backbone: Backbone = Field(description="Architecture of the vision transformer.")

    @model_validator(mode="after")
    def _whole_patches(self) -> Self:
        if self.image_size % self.backbone.patch_size:
            raise ValueError(
                f"image_size {self.image_size} must be a multiple of backbone.patch_size {self.backbone.patch_size}"
            )
        return self


class Prepare(Section):
    source: str = Field(
        min_length=1, description="Folder or URL of images, of tars of images (one a class) or of webdataset tars."
    )
    dense_source: str | None = Field(
        description="Folder of images with segmentation masks for dense evaluation, or null."
    )
    storage: Literal["pack", "in_place"] = Field(
        description="Copy the images into packs, or leave them in their tars and read them there, local or remote."
    )
    val_fraction: float = Field(gt=0, lt=1, description="Share of the training images held out as val.")
    test_fraction: float = Field(
        gt=0, lt=1, description="Share held out as test where the source has no test folder of its own."
    )
    duplicate_bits: int = Field(
        ge=0, le=16, description="Perceptual hashes at most this many bits (of 64) apart are near-duplicates."
    )
    max_refused: Probability = Field(
        description="Share of images that may be unreadable, here or later in training, before the stage fails."
    )


class Crops(Section):
    global_scale: tuple[Probability, Probability] = Field(description="Area of a global crop, share of the image.")
    local_count: int = Field(ge=0, le=32, description="Local crops an image.")
    local_size: int = Field(ge=8, description="Side of a local crop, in pixels.")
    local_scale: tuple[Probability, Probability] = Field(description="Area of a local crop, share of the image.")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        for name in ("global_scale", "local_scale"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"{name} [{low}, {high}] must rise from above 0")
        return self


class Augment(Section):
    orientation: Literal["flip", "dihedral"] = Field(
        description="Random horizontal flip, or all eight flips and right-angle turns (images without an up)."
    )
    jitter: tuple[NonNegative, NonNegative, NonNegative, Annotated[float, Field(ge=0, le=0.5)]] = Field(
        description="Strength of brightness, contrast, saturation and hue jitter."
    )
    jitter_probability: Probability = Field(description="Share of crops whose color is jittered.")
    gray_probability: Probability = Field(description="Share of crops turned gray.")
    blur_probability: tuple[Probability, Probability, Probability] = Field(
        description="Share of crops blurred: first global, second global, local."
    )
    solarize_probability: Probability = Field(description="Share of second global crops solarized.")


class Masks(Section):
    kind: Literal["inverse_block", "block", "multi_block", "random"] = Field(
        description="A visible block with the rest masked, a masked block, several (DINOv2), or single patches."
    )
    cyclic: bool = Field(description="Shift each mask cyclically by a random offset on both axes (CyclicMask).")
    image_share: Probability = Field(description="Share of global crops that are masked.")
    ratio: tuple[Probability, Probability] = Field(
        description="Smallest and largest share of a crop's patches that are masked."
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"ratio [{self.ratio[0]}, {self.ratio[1]}] must rise")
        return self


class Heads(Section):
    prototypes: int = Field(ge=16, description="Prototypes K of the finest level; coarser levels have K d_l / D.")
    hidden_dim: Count = Field(description="Width of the hidden layers of each level's MLP.")
    bottleneck_dim: Count = Field(description="Width of the MLP's output, before the prototypes.")
    init: Literal["fixed", "fan_in"] = Field(
        description="Initial spread: 0.02 as the official code, or 1 / sqrt(fan-in), which narrow heads need."
    )
    nesting: Literal["project", "slice", "none"] = Field(
        description="Levels by a learned projection (official code), by slicing (paper), or one level (DINOv2)."
    )
    sharing: Literal["dedicated", "shared"] = Field(
        description="An MLP and prototypes for each level, or one set that all levels share (slice only)."
    )

    @model_validator(mode="after")
    def _shared_needs_slices(self) -> Self:
        if self.sharing == "shared" and self.nesting != "slice":
            raise ValueError(f"sharing 'shared' needs nesting 'slice', not '{self.nesting}'")
        return self


class Losses(Section):
    dino_weight: NonNegative = Field(description="Weight of the class-token cross-entropy.")
    ibot_weight: NonNegative = Field(description="Weight of the masked-patch cross-entropy.")
    koleo_weight: NonNegative = Field(description="Weight of the KoLeo regularizer (spread of class tokens).")
    contrastive_weight: NonNegative = Field(
        description="Weight of a contrastive loss (InfoNCE) on class tokens; 0, as in the paper, leaves its head out."
    )
    contrastive_temperature: Positive = Field(description="Temperature of the contrastive loss.")
    student_temperature: Positive = Field(description="Temperature of the student's softmax.")
    teacher_temperature: tuple[Positive, Positive] = Field(
        description="Temperature of the teacher's assignments at the start and after its warm-up."
    )
    teacher_warmup_epochs: NonNegative = Field(description="Epochs over which the teacher's temperature rises.")
    koleo_images: int = Field(
        ge=2, description="Images whose class tokens KoLeo spreads among each other; divides the batch."
    )
    assignment: Literal["sinkhorn", "centering"] = Field(
        description="How the teacher assigns: Sinkhorn-Knopp, or a softmax less a moving center for each level."
    )
    sinkhorn_iterations: Count = Field(description="Iterations of Sinkhorn-Knopp.")
    center_momentum: Probability = Field(description="Momentum of the moving centers, where assignment is centering.")


class Optimizer(Section):
    base_lr: NonNegative = Field(description="Learning rate at batch size 1024; scaled by sqrt(batch / 1024).")
    min_lr: NonNegative = Field(description="Learning rate at the end of the cosine.")
    warmup_epochs: NonNegative = Field(description="Epochs of linear learning rate warm-up.")
    weight_decay: tuple[NonNegative, NonNegative] = Field(description="Weight decay at the start and at the end.")
    layer_decay: float = Field(gt=0, le=1, description="Learning rate factor from one block to the one below.")
    patch_embed_lr: NonNegative = Field(description="Learning rate factor of the patch embedding.")
    freeze_last_layer_epochs: NonNegative = Field(description="Epochs before the prototypes start to train.")
    clip_norm: Positive = Field(description="Largest gradient norm, for backbone and each head apart.")
    teacher_momentum: tuple[Probability, Probability] = Field(
        description="Momentum of the teacher's moving average at the start and at the end."
    )


class Pretrain(Section):
    init: str | None = Field(
        description="Model folder whose backbone to start from, heads fresh, positions resized; null for random."
    )
    batch_size: int = Field(ge=2, description="Images a step, over all processes.")
    epochs: NonNegative = Field(
        description="Length of the run, in epochs; may be a fraction. 0 takes the model of init as it is."
    )
    epoch_length: Count | None = Field(description="Steps an epoch; null for one pass over the training images.")
    drop_path: float = Field(ge=0, lt=1, description="Stochastic depth rate, the same in every block.")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        description="Autocast of backbone and heads; auto is bf16 on hardware that multiplies it natively."
    )
    dense_share: Probability = Field(
        description="Share of samples that are random windows of the dense set's training images; 0 leaves them out."
    )
    shuffle_window: Count = Field(
        description="Consecutive samples of in_place shards that are shuffled together; fewer keep reads closer."
    )
    crops: Crops = Field(description="Multi-crop.")
    augment: Augment = Field(description="Augmentation of each crop.")
    masks: Masks = Field(description="Masks of global crops.")
    heads: Heads = Field(description="Nested cluster heads, one for class tokens and one for patches.")
    losses: Losses = Field(description="Terms of the objective.")
    optimizer: Optimizer = Field(description="AdamW, its schedules and the teacher's.")
    knn_epochs: Positive = Field(description="Epochs from one online k-NN on val to the next.")
    compat: Literal["none", "official"] = Field(
        description="Value official lets padding take part in the patches' Sinkhorn-Knopp, as the official code does."
    )

    @model_validator(mode="after")
    def _length_fits(self) -> Self:
        if self.batch_size % self.losses.koleo_images:
            raise ValueError(
                f"batch_size {self.batch_size} must be a multiple of losses.koleo_images {self.losses.koleo_images}"
            )
        if not self.epochs and not self.init:
            raise ValueError("epochs 0 trains nothing and needs a model in init")
        for value, name in (
            (self.optimizer.warmup_epochs, "optimizer.warmup_epochs"),
            (self.losses.teacher_warmup_epochs, "losses.teacher_warmup_epochs"),
            (self.optimizer.freeze_last_layer_epochs, "optimizer.freeze_last_layer_epochs"),
        ):
            if value > self.epochs > 0:
                raise ValueError(f"{name} {value:g} is longer than epochs {self.epochs:g}")
        return self


class Disentangle(Section):
    rounds: int = Field(ge=0, le=32, description="Rounds of RASA; each removes a plane of position. 0 leaves it out.")
    epochs: Count = Field(description="Passes over the training images in each round.")
    images: Count = Field(description="Training images used, at most.")
    batch_size: Count = Field(description="Images a step.")
    learning_rate: Positive = Field(description="AdamW learning rate at the start of each round, cosine to 0.")


class Evaluate(Section):
    knn_k: Count = Field(description="Neighbors of the weighted k-NN.")
    knn_temperature: Positive = Field(description="Temperature of the neighbors' weights.")
    linear_c: list[Positive] = Field(
        min_length=1, description="Inverse regularization strengths of logistic regression; chosen on val."
    )
    bootstrap_samples: int = Field(ge=100, description="Resamples behind each confidence interval.")
    confidence: float = Field(gt=0.5, lt=1, description="Coverage of the intervals, for example 0.95.")
    dense_size: int = Field(ge=16, description="Side of the images of dense evaluation, in pixels.")
    sample_images: int = Field(ge=1, le=64, description="Images shown in pictures of maps and masks.")
    comparators: list[str] = Field(
        description="Model folders that are measured beside the model, as `franca import-weights` writes them."
    )

    @property
    def suite(self) -> dict[str, Any]:
        """What two results must share to be compared."""
        return self.model_dump(mode="json", exclude={"sample_images", "comparators"})

    @model_validator(mode="after")
    def _different_names(self) -> Self:
        names = [Path(folder).name for folder in self.comparators]
        taken = {model.name for model in MODELS}
        for name in names:
            if not name or name in taken or names.count(name) > 1:
                raise ValueError(f"comparators: '{name}' must be a folder name of its own, none of {sorted(taken)}")
        return self


GATED = "|".join(benchmark.name for benchmark in BENCHMARKS if benchmark.gate_metrics)


class Gate(Section):
    metric: str = Field(
        pattern=rf"^({GATED})/(val|test)/\w+$",
        description="Key of a val metric, as knn/val/top1; views, position and rank are for images without labels.",
    )
    against: Literal["champion", "random", "pixels"] = Field(
        description="What the model is compared with: the champion, its twin with random weights, or raw pixels."
    )
    min_improvement: NonNegative = Field(
        description="How much better it must be, and beyond chance; 0 asks only that it is not worse."
    )
    floor: float | None = Field(description="Worst value that passes, whatever the others have, or null.")

    @model_validator(mode="after")
    def _never_test(self) -> Self:
        if "test" in self.metric.split("/"):
            raise ValueError(f"metric '{self.metric}' is of the test split, which is reported and never gated on")
        return self

    @model_validator(mode="after")
    def _benchmark_has_it(self) -> Self:
        name, _, metric = self.metric.split("/")
        benchmark = BY_NAME[name]
        if not benchmark.allows_gate(metric):
            known = benchmark.gate_metrics.replace("|", " and ").replace(r"\d+", "D, D a level such as 192")
            raise ValueError(f"metric '{self.metric}' is unknown; {name} has {known}")
        return self

    @model_validator(mode="after")
    def _pixels_have_it(self) -> Self:
        if self.against == "pixels" and "network" in BY_NAME[self.metric.partition("/")[0]].needs:
            raise ValueError(f"metric '{self.metric}' is not measured of raw pixels; use against 'random'")
        return self


class Register(Section):
    experiment: str = Field(min_length=1, description="MLflow experiment of the runs.")
    model_name: str = Field(min_length=1, pattern=r"^[^/:]+$", description="Name in MLflow's model registry.")
    gates: list[Gate] = Field(min_length=1, description="What promotion asks of a model, all of it.")


class Runtime(Section):
    device: Literal["auto", "cpu", "cuda"] = Field(description="Where tensors live; auto takes a GPU if there is one.")
    processes: Count = Field(
        description="Training processes on this machine, one a GPU; a launcher's own number wins."
    )
    parallel: Literal["ddp", "fsdp", "hsdp"] = Field(
        description="Weights and optimizer: a copy per process (ddp), shards over all (fsdp) or a machine's (hsdp)."
    )
    microbatch: Count | None = Field(
        description="Most images a process computes at once; it cuts a larger share into equal parts; null: no limit."
    )
    activation_checkpointing: bool = Field(
        description="Recompute blocks in the backward pass: less memory for activations, steps a quarter longer."
    )
    compile: bool = Field(description="Compile the transformer's blocks (torch.compile); pays on GPUs.")
    threads: Count = Field(description="Threads of the CPU math libraries; another count changes the last bits.")
    deterministic: Literal["strict", "off"] = Field(
        description="GPU reruns are bit-identical but slower (strict) or equal up to rounding (off); same on CPUs."
    )
    workers: int = Field(ge=0, description="Processes that load images; 0 loads in the trainer.")
    log_steps: Count = Field(description="Steps from one line of the log to the next.")
    checkpoint_steps: Count = Field(description="Steps from one checkpoint to the next.")
    keep_checkpoints: Count = Field(description="Newest checkpoints that are kept.")
    milestone_steps: Count | None = Field(description="Steps from one checkpoint that is kept for good to the next.")
    profile_steps: int = Field(ge=0, description="Steps traced by torch.profiler after the first ten; 0 for none.")


class Params(Section):
    base: Base = Field(description="What several stages need.")
    prepare: Prepare = Field(description="From raw images to a verified and split store.")
    pretrain: Pretrain = Field(description="Self-supervised pretraining.")
    disentangle: Disentangle = Field(description="RASA: removal of position from patch features.")
    evaluate: Evaluate = Field(description="Benchmarks.")
    register_: Register = Field(alias="register", description="Tracking, registry and promotion.")
    runtime: Runtime = Field(description="What cannot change a result by more than its last bits.")

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        patch = self.base.backbone.patch_size
        for value, name in (
            (self.pretrain.crops.local_size, "pretrain.crops.local_size"),
            (self.evaluate.dense_size, "evaluate.dense_size"),
        ):
            if value % patch:
                raise ValueError(f"{name} {value} must be a multiple of base.backbone.patch_size {patch}")
        microbatch, koleo_images = self.runtime.microbatch, self.pretrain.losses.koleo_images
        if microbatch is not None and microbatch < koleo_images:
            raise ValueError(
                f"runtime.microbatch {microbatch} must be at least pretrain.losses.koleo_images {koleo_images}"
            )
        smallest = self.pretrain.heads.prototypes // 16
        if self.pretrain.heads.nesting != "none" and smallest < 2:
            raise ValueError("pretrain.heads.prototypes must be at least 32 so that the coarsest level has two")
        return self


def scaled_lr(optimizer: Optimizer, batch_size: int) -> float:
    """Learning rate at its peak: base_lr sqrt(batch / 1024), the rule of DINOv2 and Franca."""
    return optimizer.base_lr * math.sqrt(batch_size / 1024)


def parse_params(values: Any, origin: str) -> Params:
    """Validate a tree of values; `origin` names the file in the error, one line a fault."""
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        raise FrancaError("\n".join(f"{origin}: {line}" for line in fault_lines(error))) from None


def load_params(path: Path) -> Params:
    """Read and validate a parameter file; FrancaError with one line for each fault."""
    values = read_yaml(path)
    if not isinstance(values, dict):
        kind = "empty" if values is None else "not a mapping of sections"
        raise FrancaError(f"{path}: {kind}; `franca params use overhead-cpu` writes a whole file")
    return parse_params(values, str(path))


def fault_lines(error: ValidationError) -> list[str]:
    """One line for each fault: the path of the key, what is wrong, and the value given."""
    lines = []
    for fault in error.errors(include_url=False):
        where = ".".join(_shown(part) for part in fault["loc"]) or "params"
        value = _spelled(fault["input"])
        message = fault["msg"].removeprefix("Value error, ")
        match fault["type"]:
            case "missing":
                lines.append(f"{where}: missing key")
            case "extra_forbidden":
                lines.append(f"{where}: unknown key (value {value}){_suggestion(fault['loc'])}")
            case "value_error":
                lines.append(f"{where}: {message}")
            case _:
                lines.append(f"{where}: {message[0].lower()}{message[1:]}, not {value}")
    return lines


def _shown(part: int | str) -> str:
    """A part of a key's path; a key that would break the line is quoted."""
    text = str(part)
    return _cut(text if text.isprintable() else json.dumps(text))


def _spelled(value: Any) -> str:
    """A value as JSON, or by its type if it has no such form (keys that are dates, integers of 5,000 digits)."""
    try:
        return _cut(json.dumps(value, default=str))
    except (TypeError, ValueError):
        return f"a value of type {type(value).__name__}"


def _cut(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."


def _suggestion(location: tuple[int | str, ...]) -> str:
    """The known key most like the last part of `location`, as a hint."""
    import difflib

    model: Any = Params
    for part in location[:-1]:
        field = model.model_fields.get(str(part) if part != "register" else "register_")
        model = field.annotation if field else None
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            return ""
    known = [field.alias or name for name, field in model.model_fields.items()]
    close = difflib.get_close_matches(str(location[-1]), known, n=1)
    return f"; did you mean {close[0]}?" if close else f"; known here: {', '.join(known)}"
