"""The `franca drift` command: do new images still look like those that the model was trained on?"""

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from franca import hub
from franca.data.store.files.names import as_text, printable
from franca.data.store.prepared import ImageSet, Store
from franca.drift.examples import draw_queries, typical, unusual
from franca.drift.images import FolderVectors, embed_folder, embed_store
from franca.drift.measures import MIN_IMAGES, TESTS, Vectors, compare
from franca.drift.page import write_page
from franca.drift.result import as_json as result_of
from franca.drift.result import headline, sentences
from franca.errors import DriftFound, FrancaError
from franca.files import write_json
from franca.inference.image_folder import ImageFolder
from franca.models import FrancaModel
from franca.paths import PREPARED
from franca.runtime import device_of

MAX_IMAGES = 5000
"""Images of each side, at most: memory grows by the square."""
MIN_ALPHA = TESTS / 1000
"""The permutation test has 1,000 outcomes, and each test gets a third of the rate."""


def run(folder: Path, source: str, output: Path | None, *, alpha: float, limit: int, as_json: bool) -> None:
    """Compare the images of a folder with the training images; write `drift.json` and `drift.html`.

    Args:
        folder: The new images.
        source: Model, as `franca.load` takes it.
        output: Folder to write to; None to print only.
        alpha: Rate of false alarms that is accepted.
        limit: Images of each side, at most.
        as_json: Print JSON.

    Raises:
        DriftFound: The images differ.
        FrancaError: There are too few images, or something cannot be read.
    """
    if not MIN_ALPHA <= alpha < 1:
        raise FrancaError(f"--alpha {alpha:g}: must be at least {MIN_ALPHA:g} and below 1")
    if not MIN_IMAGES <= limit <= MAX_IMAGES:
        raise FrancaError(f"--images {limit}: must be from {MIN_IMAGES} to {MAX_IMAGES:,}")
    images = ImageFolder(folder)
    store = Store(PREPARED)
    training = store.images("train")
    model = hub.load(source).to(device_of("auto", "device"))
    found = embed_folder(model, images, limit, os.cpu_count() or 1)
    for where, count in ((printable(folder), len(found.names)), (str(PREPARED), len(training))):
        if count < MIN_IMAGES:
            raise FrancaError(f"{where}: {count} images are too few to compare; give {MIN_IMAGES} or more")
    reference, rows = embed_store(model, training, limit)
    comparison = compare(reference, found.vectors, alpha)
    facts = _facts(folder, source, model, store, found, reference, training)
    result = result_of(comparison, facts)
    if output is not None:
        drawn = (
            draw_queries(chosen, found, images, reference, training, rows, comparison.novelty)
            for chosen in (unusual(comparison.novelty), typical(len(found.names)))
        )
        write_json(output / "drift.json", result)
        write_page(output / "drift.html", result, *drawn)
    if as_json:
        print(json.dumps(result))
    else:
        _show(result, output)
    if comparison.drifted:
        raise DriftFound(f"{printable(folder)}: {_reason(result)}")


def _facts(
    folder: Path,
    source: str,
    model: FrancaModel,
    store: Store,
    found: FolderVectors,
    reference: Vectors,
    training: ImageSet,
) -> dict[str, Any]:
    return {
        "folder": as_text(str(folder)),
        "new_images": len(found.names),
        "folder_images": found.total,
        "training_images": len(reference),
        "store_images": len(training),
        "refused": found.refused,
        "model": source,
        "model_digest": model.digest,
        "data_digest": store.digest,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _reason(result: dict[str, Any]) -> str:
    names = [name for name, drifted, _ in sentences(result) if drifted]
    return f"the images differ from the training images ({', '.join(names)})"


def _show(result: dict[str, Any], output: Path | None) -> None:
    print(headline(result))
    for name, drifted, sentence in sentences(result):
        print(f"  {'DRIFT' if drifted else 'ok   '}  {name}: {sentence}")
    if result["refused"]:
        print(f"  {len(result['refused'])} images could not be read")
    if output is not None:
        print(f"{printable(output / 'drift.html')}: with pictures")
