"""`franca import-weights`: make a model folder of released weights, for pretraining, evaluation or export."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from franca.errors import FrancaError
from franca.files import atomic_folder
from franca.formats import timm as timm_models
from franca.formats.official import import_checkpoint, remove_position
from franca.formats.official_keys import from_official, rasa_planes
from franca.formats.state_dict import read_state
from franca.models.model import Channels, FrancaModel, save_model
from franca.params import Backbone
from franca.params.render import spell

MODEL_FILES = {"config.json", "model.safetensors"}


def import_weights(
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
    """Write a model folder atomically, and print what is in it and how to use it.

    Args:
        files: An official checkpoint, or the parts of its tar in order. With `timm_name`, a checkpoint of that model,
            or none to download the weights from timm's hub.
        output: The model folder to write.
        rasa: An official RASA head; replaces one in the checkpoint.
        timm_name: A model name of timm.
        num_heads: Attention heads of an official checkpoint; by default one per 64 dimensions.
        mean: Channel means in 0..1; by default ImageNet's, or those of timm's model.
        std: Channel standard deviations; likewise.
        force: Replace a model in `output`.

    Raises:
        FrancaError: The weights cannot be read, or `output` must not be replaced; it then stays as it was.
    """
    if not files and timm_name is None:
        raise FrancaError("no file to import; give one, or a model name of timm by --timm")
    if num_heads is not None and timm_name is not None:
        raise FrancaError(f"--num-heads: {timm_name} has a fixed number of heads; leave it out")
    _check_output(output, force)
    origin = str(files[0]) if files else str(timm_name)
    mean, std = _channels(mean, "--mean", 0), _channels(std, "--std", 1e-6)
    if timm_name is None:
        model, left_out = import_checkpoint(files, num_heads, mean, std)
    else:
        left_out = Counter[str]()
        if files:
            model, left_out = timm_models.from_state(timm_name, read_state(files), origin)
        else:
            model = timm_models.from_hub(timm_name)
        model.mean, model.std = mean or model.mean, std or model.std
    if rasa is not None:
        state = read_state([rasa])
        # The file may be a RASA head alone, or a whole checkpoint with one.
        embedded = from_official(state, str(rasa)).planes
        remove_position(model, rasa_planes(state, str(rasa)) if embedded is None else embedded, str(rasa))
    with atomic_folder(output) as folder:
        save_model(model, folder)
    print("\n".join(_report(model, output, left_out)))


def _check_output(output: Path, force: bool) -> None:
    """Raise FrancaError unless `output` is new, empty, or a model folder that may be replaced."""
    if not output.exists():
        return
    names = {path.name for path in output.iterdir()} if output.is_dir() else {output.name}
    if names and names != MODEL_FILES:
        reason = ", ".join(sorted(names - MODEL_FILES)[:3]) or "incomplete"
        raise FrancaError(f"{output}: not a model folder ({reason}) and not replaced; give another folder")
    if names and not force:
        raise FrancaError(f"{output}: holds a model already; give another folder, or replace the model by --force")


def _channels(values: Sequence[float] | None, option: str, minimum: float) -> Channels | None:
    if values is None:
        return None
    red, green, blue = values
    if not all(minimum <= value <= 1 for value in values):
        raise FrancaError(
            f"{option}: {red:g} {green:g} {blue:g} are not for channel values in 0..1; divide those for 0..255 by 255"
        )
    return red, green, blue


def _report(model: FrancaModel, output: Path, left_out: Counter[str]) -> list[str]:
    """Return lines on what was found, what was left out, and how to use the model."""
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
        lines.append(f"left out: {heads}; pretraining starts with new heads")
    if isinstance(model.architecture, Backbone):
        values = {key: spell(v) if isinstance(v, float) else v for key, v in model.architecture.model_dump().items()}
        fitting = ", ".join(f"{key}: {value}" for key, value in values.items())
        lines.append(f"train on: pretrain.init: {output} and base.backbone: {{{fitting}}}")
    else:
        lines.append(f"compare with it: evaluate.comparators: [{output}]")
    return lines
