"""`franca import-weights`: a model folder of released weights, ours to pretrain from, to measure and to ship."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from franca.errors import FrancaError
from franca.files import atomic_folder
from franca.formats import timm as timm_models
from franca.formats.official import from_official, planes_of, read_model, remove_position, state_of
from franca.formats.tensor_files import read_checkpoint
from franca.models.model import Channels, FrancaModel, save_model
from franca.params import Backbone
from franca.params.render import spell

MODEL_FILES = {"config.json", "model.safetensors"}


def run(
    files: Sequence[Path],
    output: Path,
    *,
    rasa: Path | None = None,
    timm_name: str | None = None,
    num_heads: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    force: bool = False,
) -> None:
    """Write the model folder `output` and say what is in it and how to go on.

    `files` are an official checkpoint or the parts of its tar; with `timm_name` one of that model of timm, or none to
    take the weights from timm's hub. `rasa` is an official RASA head, which replaces one in the checkpoint. `mean` and
    `std` are of channels in 0..1, by default ImageNet's or what timm says. Raises FrancaError; `output` is then as it
    was.
    """
    if not files and timm_name is None:
        raise FrancaError("no file to import; name one, or a model of timm with --timm")
    if num_heads is not None and timm_name is not None:
        raise FrancaError(f"--num-heads: {timm_name} has its own number of heads; leave it out")
    _check_output(output, force)
    origin = str(files[0]) if files else str(timm_name)
    mean, std = _channels(mean, "--mean", 0), _channels(std, "--std", 1e-6)
    if timm_name is None:
        model, left_out = read_model(files, num_heads, mean, std)
    else:
        left_out = Counter[str]()
        if files:
            model, left_out = timm_models.from_state(timm_name, state_of(read_checkpoint(files), origin), origin)
        else:
            model = timm_models.from_hub(timm_name)
        model.mean, model.std = mean or model.mean, std or model.std
    if rasa is not None:
        state = state_of(read_checkpoint([rasa]), str(rasa))
        embedded = from_official(state, str(rasa)).planes
        remove_position(model, planes_of(state, str(rasa)) if embedded is None else embedded, str(rasa))
    with atomic_folder(output) as folder:
        save_model(model, folder)
    print("\n".join(_report(model, output, left_out)))


def _check_output(output: Path, force: bool) -> None:
    if not output.exists():
        return
    names = {path.name for path in output.iterdir()} if output.is_dir() else {output.name}
    if names and names != MODEL_FILES:
        odd = ", ".join(sorted(names - MODEL_FILES)[:3]) or "not all of a model"
        raise FrancaError(f"{output}: no model folder ({odd}), so that it is not written over; name another one")
    if names and not force:
        raise FrancaError(f"{output}: holds a model already; name another folder, or replace it with --force")


def _channels(values: Sequence[float] | None, option: str, least: float) -> Channels | None:
    if values is None:
        return None
    red, green, blue = values
    if not all(least <= value <= 1 for value in values):
        raise FrancaError(f"{option}: {red:g} {green:g} {blue:g} are not of channels in 0..1")
    return red, green, blue


def _report(model: FrancaModel, output: Path, left_out: Counter[str]) -> list[str]:
    """What was found, what was left out, and how to go on: a line each."""
    count = sum(parameter.numel() for parameter in model.backbone.parameters())
    facts = f"{model.image_size} px, patches of {model.patch_size} px, {count / 1e6:.1f} M parameters"
    if rounds := len(model.position_planes):
        facts += f", {rounds} planes of RASA"
    if isinstance(model.architecture, Backbone):
        about = model.architecture
        lines = [
            f"{output}: ViT {about.embed_dim} wide, {about.depth} blocks, {about.num_heads} heads, {about.ffn},"
            f" {about.registers} registers, {facts}"
        ]
    else:
        lines = [f"{output}: timm's {model.architecture}, {facts}"]
    if left_out:
        heads = ", ".join(f"{head} ({tensors} tensors)" for head, tensors in left_out.items())
        lines.append(f"left out: {heads}; fresh heads start with pretrain.init")
    if isinstance(model.architecture, Backbone):
        values = {key: spell(v) if isinstance(v, float) else v for key, v in model.architecture.model_dump().items()}
        fitting = ", ".join(f"{key}: {value}" for key, value in values.items())
        lines.append(f"train on: pretrain.init: {output} and base.backbone: {{{fitting}}}")
    else:
        lines.append(f"compare with it: evaluate.comparators: [{output}]")
    return lines
