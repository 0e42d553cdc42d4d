"""The `search` command: the images of a folder or an index that look most like a picture."""

import json
import tempfile
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from franca import hub
from franca.data.store.files.names import as_text, printable
from franca.data.store.images.decode import strict_decoding
from franca.data.store.transform import resize_and_crop
from franca.errors import FrancaError
from franca.inference.embed import embed
from franca.inference.image_folder import Found, ImageFolder
from franca.inference.neighbors import Index, Match, read_index
from franca.models import FrancaModel
from franca.runtime import device_of


def run(
    place: Path,
    images: list[Path],
    source: str,
    *,
    count: int,
    device: Literal["auto", "cpu", "cuda"],
    as_json: bool,
) -> None:
    """Print the most similar images of each picture.

    Args:
        place: Parquet file of `franca embed`, or a folder of images, which is embedded first.
        images: The pictures to search for.
        source: Model, as `franca.load` takes it.
        count: Matches for each picture.
        device: Where the model runs.
        as_json: Print JSON.
    """
    if count < 1:
        raise FrancaError(f"-k {count}: must be 1 or more")
    model = hub.load(source).to(device_of(device, "--device"))
    index = _embedded(place, model, source) if place.is_dir() else read_index(place)
    try:
        index.check(model, source)
    except FrancaError as error:
        raise FrancaError(f"{printable(place)}: {error}") from None
    with strict_decoding():
        queries = torch.cat([_pooled(model, path) for path in images])
    found = {as_text(str(path)): matches for path, matches in zip(images, index.search(queries, count), strict=True)}
    print(json.dumps(_plain(found), indent=2) if as_json else "\n".join(_lines(found)))


def _embedded(folder: Path, model: FrancaModel, source: str) -> Index:
    with tempfile.TemporaryDirectory() as temporary:
        output = Path(temporary, "index.parquet")
        embed(model, ImageFolder(folder), output, source)
        return read_index(output)


@torch.inference_mode()
def _pooled(model: FrancaModel, path: Path) -> torch.Tensor:
    """Return the embedding (1, D) of an image file, by the preprocessing of `franca embed`."""
    image = Found(path.name, path).open()
    if isinstance(image, str):
        raise FrancaError(f"{printable(path)}: {image}")
    pixels = torch.from_numpy(np.array(resize_and_crop(image, model.image_size))).permute(2, 0, 1)[None]
    return model(pixels.to(next(model.parameters()).device)).pooled


def _plain(found: dict[str, list[Match]]) -> dict[str, list[dict[str, object]]]:
    return {name: [match._asdict() for match in matches] for name, matches in found.items()}


def _lines(found: dict[str, list[Match]]) -> list[str]:
    lines = []
    for name, matches in found.items():
        lines += [name] if len(found) > 1 else []
        lines += [f"{match.similarity:.4f}  {printable(match.path)}" for match in matches]
    return lines
