"""The `franca inspect` command: a page about the prepared images."""

from pathlib import Path
from typing import Any

import numpy as np

from franca.data.store.files.names import printable
from franca.data.store.prepared import ImageSet, Store
from franca.data.store.transform import resize_and_crop
from franca.errors import FrancaError
from franca.evaluation.features import evenly_spaced
from franca.evaluation.report_page.examples import SIDE, Thumbnail, jpeg_uri
from franca.files import read_json, write_bytes
from franca.inspection import facts
from franca.inspection.findings import remarks
from franca.pages import render_page
from franca.params import Params
from franca.paths import PREPARED

EXTREMES = 5
PER_CLASS = 5
MAX_CLASSES = 20
MAX_LISTED = 50


def run(params: Params, output: Path) -> None:
    """Write a page about the images in `prepared/`, and print what is worth a look.

    Args:
        params: The project's parameters.
        output: HTML file.

    Raises:
        FrancaError: There is no prepared store, or `output` is no HTML file.
    """
    if output.suffix != ".html" or output.is_dir():
        raise FrancaError(f"{printable(output)}: not the name of an HTML file; choose one that ends in .html")
    store = Store(PREPARED)
    train = store.images("train")
    if not len(train):
        raise FrancaError(f"{PREPARED}: has no training images; check prepare.source")
    counts, classes, found = facts.split_counts(store), facts.class_counts(store), facts.training_sizes(PREPARED)
    light = facts.measure_light(train)
    refused, duplicates = read_json(PREPARED / "refused.json"), read_json(PREPARED / "duplicates.json")
    size = params.base.image_size
    noted = remarks(sum(counts.values()), len(refused), duplicates, classes, found, size, light)
    content = render_page(
        "franca.inspection",
        "inspection.html",
        source=printable(str(store.manifest["source"]["path"])),
        counts=counts,
        remarks=noted,
        tables=[
            ("Images of each class", [_printable(row) for row in classes]),
            ("Short side of training images, in pixels", facts.side_counts(found)),
            ("Sizes of training images, width x height", facts.size_counts(found)),
            ("Mean brightness, 0 to 255", facts.light_counts(light.means)),
        ],
        extremes=[
            (title, [_thumbnail(train, int(light.rows[row]), f"{values[row]:.0f}") for row in order[:EXTREMES]])
            for title, values, order in (
                ("Darkest", light.means, np.argsort(light.means, kind="stable")),
                ("Brightest", light.means, np.argsort(-light.means, kind="stable")),
                ("Least contrast", light.deviations, np.argsort(light.deviations, kind="stable")),
            )
        ],
        examples=_examples(train),
        refused=[(printable(entry["path"]), printable(entry["reason"])) for entry in refused[:MAX_LISTED]],
        more_refused=max(0, len(refused) - MAX_LISTED),
        groups=[", ".join(map(printable, group)) for group in duplicates["groups"][:MAX_LISTED]],
        more_groups=max(0, len(duplicates["groups"]) - MAX_LISTED),
        digest=store.digest,
    )
    write_bytes(output, content)
    for remark in noted:
        print(f"{remark.subject}: {remark.sentence}")
    print(f"{printable(output)}: with pictures")


def _printable(row: facts.Row) -> facts.Row:
    return facts.Row(printable(row.name), row.count, row.width)


def _thumbnail(images: ImageSet, row: int, note: str = "") -> Thumbnail:
    label = int(images.labels[row])
    name = printable(images.classes[label]) if label >= 0 else None
    image: Any = images[row]
    return Thumbnail(jpeg_uri(resize_and_crop(image, min(SIDE, *image.size))), name, None, note)


def _examples(images: ImageSet) -> list[tuple[str, list[Thumbnail]]]:
    """Return the first images of each class, of up to `MAX_CLASSES` classes; without labels evenly spaced ones."""
    labels = np.asarray(images.labels)
    if not (labels >= 0).any():
        rows = evenly_spaced(len(images), EXTREMES)
        return [("Training images", [_thumbnail(images, int(row)) for row in rows])]
    found = []
    for label in np.unique(labels[labels >= 0])[:MAX_CLASSES]:
        rows = np.flatnonzero(labels == label)
        chosen = rows[evenly_spaced(len(rows), PER_CLASS)]
        found.append((printable(images.classes[label]), [_thumbnail(images, int(row)) for row in chosen]))
    return found
