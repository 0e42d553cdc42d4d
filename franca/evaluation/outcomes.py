"""What each image adds to a score, stored in one file, so that two models can be compared image by image.

`outcomes.npz` has an array per model, benchmark, split and metric, and `index`, a JSON text that describes them. The
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
    """What one score of one model is computed from, image by image.

    Attributes:
        kind: What `values` are:
            hits: (n,) bool, whether each image is classified correctly; the score is their share.
            sums: (n, ...) float64, what each image adds to sums; the score is a statistic of the sums.
            replicates: (R,) float64, the score on random halves of the images; two models have the same halves if they
            have the same `images`.
        values: The values.
        images: Digest of the list of images.
        n: Number of images.
    """

    kind: Kind
    values: NDArray[Any]
    images: str
    n: int


def images_digest(store_digest: str, split: str, rows: NDArray[np.integer], dense: bool = False) -> str:
    """Return a digest of the list of images `rows` (n,) of a split of a store, or of its dense set."""
    head = f"{store_digest} {'dense' if dense else 'images'} {split} ".encode()
    return hashlib.sha256(head + rows.astype("<i8").tobytes()).hexdigest()[:16]


def write_outcomes(path: Path, outcomes: Mapping[Key, Outcome], model_digest: str) -> None:
    """Write `outcomes.npz`; `model_digest` is that of the evaluated model. Hits take one bit per image."""
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
    """Read `outcomes.npz`; return no outcomes if it is missing, damaged or of another model.

    A missing file is no error: evaluations by older versions have none, and differences are then not paired.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            index = json.loads(bytes(file[_INDEX]))
            if index["model"] != model_digest:
                return {}
            return {_key(name): _outcome(about, file[about["array"]]) for name, about in index["outcomes"].items()}
    except Exception:  # NumPy and zipfile raise many kinds of errors for damaged archives
        return {}


def _key(name: str) -> Key:
    model, benchmark, split, metric = name.rsplit("/", 3)
    return model, benchmark, split, metric


def _outcome(about: dict[str, Any], values: NDArray[Any]) -> Outcome:
    kind, n = about["kind"], int(about["n"])
    values = np.unpackbits(values, count=n).astype(bool) if kind == "hits" else values.astype(np.float64)
    return Outcome(kind, values, about["images"], n)
