"""Model cards: what a model is and how to load it.

An exported folder has one as README.md with Hugging Face front matter, a registered version as its description.
"""

from pathlib import Path
from typing import NamedTuple

from huggingface_hub import ModelCardData

from franca.files import write_bytes
from franca.models.model import FrancaModel
from franca.params import Backbone


class ExportInfo(NamedTuple):
    """What the writer of a format reports about the folder.

    Attributes:
        library: `library_name` of the front matter.
        usage: Python lines that load the model and turn a PIL `image` into `pooled` and `patches`. FOLDER stands for
            the name of the folder.
        missing: Parts of the model that the format cannot hold.
        check: How the written files were compared with the model; empty if they were not.
    """

    library: str
    usage: str
    missing: tuple[str, ...] = ()
    check: str = ""


ABOUT = """\
A vision transformer that turns images into features: one vector per image (`pooled`) and one per patch (`patches`)."""


def facts_table(model: FrancaModel, check: str = "") -> str:
    """Return a Markdown table of what a program has to know to use the model.

    Args:
        model: The model.
        check: How files in another format were compared with it; empty if they were not.
    """
    rows = [f"| {key} | {value} |" for key, value in _facts(model, check).items()]
    return "\n".join(["| | |", "| --- | --- |", *rows])


def write_card(model: FrancaModel, info: ExportInfo, folder: Path, name: str) -> None:
    """Write `folder/README.md` for a folder that will be renamed to `name`."""
    data = ModelCardData(
        library_name=info.library,
        license="unknown",
        pipeline_tag="image-feature-extraction",
        tags=["franca", "vision", "self-supervised-learning", "matryoshka"],
    )
    missing = "\n".join(f"- {line}" for line in info.missing) or "Nothing of the model is missing."
    text = f"""---
{data.to_yaml()}
---

# {name}

{ABOUT}
Written by `franca export`. The license depends on the weights and on the training images: fill it in above before you
publish.

{facts_table(model, info.check)}

## Load

From the folder that holds `{name}`:

```python
{info.usage.strip().replace("FOLDER", name)}
```

## Not in this format

{missing}
"""
    write_bytes(folder / "README.md", text.encode())


def _facts(model: FrancaModel, check: str) -> dict[str, str]:
    facts = {"Architecture": _architecture(model.architecture)}
    facts["Image size, native"] = f"{model.image_size} px, short side resized bicubically, center cropped"
    facts["Patch size"] = f"{model.patch_size} px"
    facts["Dimensions"] = f"{model.embed_dim} of {model.width}" if model.embed_dim < model.width else f"{model.width}"
    if model.levels:
        facts["Matryoshka levels"] = ", ".join(map(str, model.levels))
    planes = len(model.position_planes)
    facts["Position in patches"] = f"removed by RASA, {planes} planes" if planes else "not removed"
    facts["Mean, of RGB in 0..1"] = ", ".join(f"{value:g}" for value in model.mean)
    facts["Standard deviation"] = ", ".join(f"{value:g}" for value in model.std)
    if model.digest:
        facts["SHA-256 of the weights"] = f"`{model.digest}`"
    if check:
        facts["Checked"] = check
    return facts


def _architecture(about: Backbone | str) -> str:
    if isinstance(about, str):
        return f"`{about}` of timm"
    return (
        f"ViT, width {about.embed_dim}, depth {about.depth}, {about.num_heads} heads,"
        f" {'SwiGLU' if about.ffn == 'swiglu' else 'MLP'}, {about.registers} registers"
    )
