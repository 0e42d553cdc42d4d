"""What each image adds to a score, kept in one file, so that two models can be compared image by image.

`outcomes.npz` has an array for each model, benchmark, split and metric, and `index`, which says how to read them. The
same outcomes give the same bytes. Imports no torch.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from franca.files import atomic_path

Kind = Literal["hits", "sums", "replicates"]
Key = tuple[str, str, str, str]
"""Model, benchmark, split, metric."""
FILE = "outcomes.npz"
_INDEX = "index"


class Outcome(NamedTuple):
    """The images behind one score of one model.

    `values` are, by `kind`:
    hits: bool (n,), whether each image is right; the score is their share.
    sums: float64 (n, …), what each image adds to the sums of which the score is a statistic.
    replicates: float64 (R,), the score on random halves of the images, which two models share if `images` is the same.
    """

    kind: Kind
    values: NDArray[Any]
    images: str
    """Digest of the list of images."""
    n: int


def images_digest(store_digest: str, split: str, rows: NDArray[np.integer], dense: bool = False) -> str:
    """Return what two lists of images share only if they are the same: `rows` (n,) of a split of a store."""
    head = f"{store_digest} {'dense' if dense else 'images'} {split} ".encode()
    return hashlib.sha256(head + rows.astype("<i8").tobytes()).hexdigest()[:16]


def write_outcomes(path: Path, outcomes: Mapping[Key, Outcome], model_digest: str) -> None:
    """Write the file of an evaluation of the model with this digest; hits take one bit an image."""
    arrays: dict[str, Any] = {}
    index: dict[str, Any] = {}
    for number, (key, outcome) in enumerate(sorted(outcomes.items())):
        values = outcome.values
        if outcome.kind == "hits":
            values = np.packbits(values)
        elif outcome.kind == "sums" and (values == values.round()).all():
            values = values.astype(np.int32 if np.abs(values).max(initial=0) < 2**31 else np.int64)
        arrays[str(number)] = values
        index["/".join(key)] = {"kind": outcome.kind, "images": outcome.images, "n": outcome.n, "array": str(number)}
    about = {"model": model_digest, "outcomes": index}
    arrays[_INDEX] = np.frombuffer(json.dumps(about, sort_keys=True).encode(), dtype=np.uint8)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)


def read_outcomes(path: Path, model_digest: str) -> dict[Key, Outcome]:
    """Read the file; empty if there is none, as of an older version, if it is damaged or of another model."""
    try:
        with np.load(path, allow_pickle=False) as file:
            index = json.loads(bytes(file[_INDEX]))
            if index["model"] != model_digest:
                return {}
            return {_key(name): _outcome(about, file[about["array"]]) for name, about in index["outcomes"].items()}
    except Exception:  # a damaged archive makes NumPy and zipfile raise nearly anything
        return {}


def _key(name: str) -> Key:
    model, benchmark, split, metric = name.rsplit("/", 3)
    return model, benchmark, split, metric


def _outcome(about: dict[str, Any], values: NDArray[Any]) -> Outcome:
    kind, n = about["kind"], int(about["n"])
    values = np.unpackbits(values, count=n).astype(bool) if kind == "hits" else values.astype(np.float64)
    return Outcome(kind, values, about["images"], n)
