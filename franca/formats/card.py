"""The model card: README.md with front matter, what the folder holds, how to load it, what it lacks."""

from pathlib import Path
from typing import NamedTuple

from huggingface_hub import ModelCardData

from franca.files import write_bytes
from franca.models.model import FrancaModel
from franca.params import Backbone


class Contents(NamedTuple):
    """What a format's writer says of the folder.

    `library` is the front matter's `library_name`; `usage` the Python lines that load the model, FOLDER standing for
    the folder's name, and turn a PIL `image` or uint8 `images` into `pooled` and `patches`; `lacks` what of the model
    the format does not carry; `checked` how the written files were compared with the model.
    """

    library: str
    usage: str
    lacks: tuple[str, ...] = ()
    checked: str = ""


def write_card(model: FrancaModel, contents: Contents, folder: Path, name: str) -> None:
    """Write `folder/README.md` for a folder that will be called `name`."""
    data = ModelCardData(
        library_name=contents.library,
        license="unknown",
        pipeline_tag="image-feature-extraction",
        tags=["franca", "vision", "self-supervised-learning", "matryoshka"],
    )
    rows = "\n".join(f"| {key} | {value} |" for key, value in _facts(model, contents).items())
    lacks = "\n".join(f"- {line}" for line in contents.lacks) or "Nothing of the model is missing."
    text = f"""---
{data.to_yaml()}
---

# {name}

A vision transformer that turns images into features: one vector an image (`pooled`) and one a patch (`patches`).
Written by `franca export`. Its license is a matter of the weights and of the images behind them: name it above before
you publish.

| | |
| --- | --- |
{rows}

## Load

From the folder that holds `{name}`:

```python
{contents.usage.strip().replace("FOLDER", name)}
```

## Not in this format

{lacks}
"""
    write_bytes(folder / "README.md", text.encode())


def _facts(model: FrancaModel, contents: Contents) -> dict[str, str]:
    facts = {"Architecture": _architecture(model.architecture)}
    facts["Image size, native"] = f"{model.image_size} px, short side resized bicubically, center cropped"
    facts["Patch size"] = f"{model.patch_size} px"
    facts["Dimensions"] = f"{model.embed_dim} of {model.width}" if model.embed_dim < model.width else f"{model.width}"
    if model.levels:
        facts["Matryoshka levels"] = ", ".join(map(str, model.levels))
    planes = len(model.position_planes)
    facts["Position in patches"] = f"taken out by RASA, {planes} planes" if planes else "not taken out"
    facts["Mean, of RGB in 0..1"] = ", ".join(f"{value:g}" for value in model.mean)
    facts["Standard deviation"] = ", ".join(f"{value:g}" for value in model.std)
    if model.digest:
        facts["SHA-256 of the weights exported"] = f"`{model.digest}`"
    if contents.checked:
        facts["Checked"] = contents.checked
    return facts


def _architecture(about: Backbone | str) -> str:
    if isinstance(about, str):
        return f"`{about}` of timm"
    return (
        f"ViT, width {about.embed_dim}, depth {about.depth}, {about.num_heads} heads,"
        f" {'SwiGLU' if about.ffn == 'swiglu' else 'MLP'}, {about.registers} registers"
    )
