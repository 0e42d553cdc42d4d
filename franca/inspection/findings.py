"""What is worth a look in a prepared store, in sentences."""

from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from franca.inspection.facts import BRIGHT, DARK, FLAT, Light, Row

IMBALANCE = 10
"""Largest class divided by the smallest, above which classes are called unequal."""
SHARE = 0.01
"""Share of images with a fault above which it is called one of the data set."""

Outcome = Literal["good", "mixed", "bad"]


class Remark(NamedTuple):
    """A subject, whether it looks good, and a sentence."""

    subject: str
    outcome: Outcome
    sentence: str


def remarks(
    total: int,
    refused: int,
    duplicates: dict[str, Any],
    classes: list[Row],
    found: NDArray[np.int64],
    image_size: int,
    light: Light,
) -> list[Remark]:
    """Return a remark on each subject.

    Args:
        total: Images in the store.
        refused: Images that `prepare` has refused.
        duplicates: The content of `duplicates.json`.
        classes: Images of each class, the largest first.
        found: (N, 2) width and height of the training images.
        image_size: Side to which images are resized for training, in pixels.
        light: Brightness of the sample.
    """
    small = int((found.min(1) < image_size).sum())
    faint = {
        "nearly black": int((light.means < DARK).sum()),
        "nearly white": int((light.means > BRIGHT).sum()),
        "without contrast": int((light.deviations < FLAT).sum()),
    }
    shown = ", ".join(f"{count} {name}" for name, count in faint.items())
    dropped = len(duplicates.get("dropped", []))
    groups = len(duplicates.get("groups", []))
    return [
        Remark("Refused", _grade(refused, total + refused), f"{_number(refused, 'image')} could not be read or used."),
        Remark(
            "Duplicates",
            _grade(dropped, total),
            f"{_number(groups, 'group')} of images that look the same; {_number(dropped, 'image')} dropped, so that "
            "no split has images of another.",
        ),
        _classes(classes),
        Remark(
            "Size",
            _grade(small, len(found)),
            f"{_number(small, 'training image')} smaller than the {image_size} pixels that the model sees.",
        ),
        # Never bad: water and snow are flat.
        Remark("Brightness", "mixed" if any(faint.values()) else "good", f"Of {len(light.means):,} images: {shown}."),
    ]


def _classes(classes: list[Row]) -> Remark:
    if not classes:
        return Remark("Classes", "mixed", "No labels: k-NN and linear probes cannot be measured on these images.")
    largest, smallest = classes[0], classes[-1]
    outcome: Outcome = "mixed" if largest.count > IMBALANCE * smallest.count else "good"
    return Remark(
        "Classes",
        outcome,
        f"{len(classes):,} classes, from {smallest.count:,} images ({smallest.name}) to {largest.count:,} "
        f"({largest.name}).",
    )


def _grade(count: int, total: int) -> Outcome:
    if not count:
        return "good"
    return "bad" if count > SHARE * max(total, 1) else "mixed"


def _number(count: int, name: str) -> str:
    return f"{count:,} {name}{'s' * (count != 1)}"
