"""Make a prepared store: verify and split the images, pack or index them, and record what became of each."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from franca.data.ingest.dense import DenseSource
from franca.data.ingest.duplicates import group_duplicates, join
from franca.data.ingest.manifest import describe, describe_duplicates, describe_exposure
from franca.data.ingest.sources import Sample, Source
from franca.data.ingest.splits import NONE, TRAIN, assign_splits
from franca.data.ingest.table import Refused, Table, ingest
from franca.data.store.files.folders import is_url
from franca.data.store.files.names import printable
from franca.data.store.index import SPLITS, SplitName
from franca.data.store.pack import PackWriter
from franca.data.store.shards import InPlaceWriter
from franca.errors import FrancaError
from franca.files import sha256_file, write_json
from franca.params import Prepare

_SHOWN = 3


def prepare(
    params: Prepare, folder: Path, threads: int = 1, stop: Callable[[], bool] = lambda: False
) -> dict[str, Any]:
    """Write the store into the new `folder`, its manifest last; returns the manifest.

    `threads` decode images. Raises FrancaError for what is wrong with the source or when `stop` turns true, OSError
    where the disk fails.
    """
    if params.dense_source and is_url(params.dense_source):
        raise FrancaError(
            f"prepare.dense_source: {printable(params.dense_source)} is a URL; copy it into a local folder"
        )
    source = Source(params.source, "prepare.source")
    dense = DenseSource(Path(params.dense_source), "prepare.dense_source") if params.dense_source else None

    if params.storage == "in_place":
        manifest = _index(source, folder, params, threads, stop)
    else:
        manifest = _pack(source, folder, params, threads, stop)

    manifest["dense"] = None
    if dense:
        with PackWriter(folder / "dense/images") as images, PackWriter(folder / "dense/masks") as masks:

            def keep(sample: Sample) -> None:
                images.add(sample.content)
                masks.add(sample.mask or b"")

            table = ingest(dense, keep, threads, stop)
            packs = {"dense/images": images, "dense/masks": masks}
            manifest["dense"] = _finish(dense, table, params, packs, folder, "dense") | dense.about.model_dump()
    write_json(folder / "manifest.json", manifest)
    return manifest


def _pack(source: Source, folder: Path, params: Prepare, threads: int, stop: Callable[[], bool]) -> dict[str, Any]:
    """Copy the images' bytes into the store."""
    with PackWriter(folder / "images") as images:
        table = ingest(source, lambda sample: images.add(sample.content), threads, stop)
        return _finish(source, table, params, {"images": images}, folder, "")


def _index(source: Source, folder: Path, params: Prepare, threads: int, stop: Callable[[], bool]) -> dict[str, Any]:
    """Write into the store where in the source's tars the images are."""
    if not source.shards:
        raise FrancaError(
            f"prepare.storage: in_place is for tars, and {source.title} holds loose images; "
            "set pack, or put the images into tars"
        )
    images = InPlaceWriter(folder / "images", source.place, source.shards)
    table = ingest(source, lambda sample: images.add(sample.content, sample.shard, sample.offset), threads, stop)
    return _finish(source, table, params, {"images": images}, folder, "")


def _finish(
    source: Source | DenseSource,
    table: Table,
    params: Prepare,
    packs: Mapping[str, PackWriter | InPlaceWriter],
    store: Path,
    part: str,
) -> dict[str, Any]:
    """Split what was kept, close the packs, list in the store's `part` what was left out, and describe it all."""
    images = len(table) + len(table.refused)
    _check_refused(source, table.refused, images, params.max_refused)
    groups = group_duplicates(table.hashes, params.duplicate_bits)
    split = _split(source, table, groups, params)
    duplicates = describe_duplicates(table, groups, split, params.duplicate_bits)
    refused = table.refused + _refuse_untaught(table, split)
    _check_refused(source, refused, images, params.max_refused)
    _check_splits(source, split)

    kept = zip(table.class_names, split, strict=True)
    classes = sorted({name for name, number in kept if name and number != NONE})
    if len(classes) < 2 and isinstance(source, Source):
        # With one class, every model would score 100 %.
        found = f"only one class ({printable(classes[0])})" if classes else "no classes"
        skipped = "images are treated as unlabelled, so k-NN and the linear probe are skipped"
        print(f"{source.title}: {found}; {skipped}", file=sys.stderr)
        classes = []
    numbers = {name: number for number, name in enumerate(classes)}
    label = np.array([numbers.get(name or "", -1) for name in table.class_names], dtype=np.int64)
    manifest = describe(source, table, split, label, classes, refused, duplicates)
    if warning := describe_exposure(manifest["channels"]):
        print(f"{source.title}: {warning}", file=sys.stderr)

    manifest["files"] = {}
    heights, widths, _ = table.sizes.T
    for pack_name, pack in packs.items():
        files = pack.close(split != NONE, params.max_refused, height=heights, width=widths, label=label, split=split)
        manifest["files"] |= {f"{pack_name}/{name}": digest for name, digest in files.items()}
    for path, content in (
        (store / part / "refused.json", [asdict(item) for item in refused]),
        (store / part / "duplicates.json", duplicates),
    ):
        write_json(path, content)
        manifest["files"][path.relative_to(store).as_posix()] = sha256_file(path)
    return manifest


def _split(
    source: Source | DenseSource, table: Table, groups: NDArray[np.int64], params: Prepare
) -> NDArray[np.int64]:
    """Split number of each image, shape (N,), NONE where it repeats an image of a higher split."""
    units = groups
    if isinstance(source, DenseSource):
        _, first, scene = np.unique([str(s) for s in table.scenes], return_index=True, return_inverse=True)
        units = join(groups, np.arange(len(table)), first[scene])
    fractions: dict[SplitName, float] = {"val": params.val_fraction, "test": params.test_fraction}
    names = sorted({name for name in table.class_names if name})
    numbers = {name: number for number, name in enumerate(names)}
    classes = np.array([numbers.get(name or "", NONE) for name in table.class_names], dtype=np.int64)
    split = assign_splits(groups, units, table.keys, table.given, fractions, classes)
    _check_splits(source, split)
    return split


def _refuse_untaught(table: Table, split: NDArray[np.int64]) -> list[Refused]:
    """Take images out of val and test whose class has no image in train: no model could be right about them."""
    taught = {table.class_names[row] for row in np.flatnonzero(split == TRAIN)}
    refused = []
    for row in np.flatnonzero(split > TRAIN):
        class_name = table.class_names[row]
        if class_name not in taught:
            split[row] = NONE
            reason = f"class {class_name} has too few images to split: none is left for train"
            refused.append(Refused(table.names[row], reason))
    return refused


def _check_splits(source: Source | DenseSource, split: NDArray[np.int64]) -> None:
    missing = [name for number, name in enumerate(SPLITS) if number not in split]
    if missing:
        what = "scenes (names up to the last underscore)" if isinstance(source, DenseSource) else "different images"
        raise FrancaError(
            f"{source.title}: no image for {' and '.join(missing)}: too few {what} to split; add more, or lay them "
            "in train, val and test folders"
        )


def _check_refused(source: Source | DenseSource, refused: list[Refused], images: int, max_refused: float) -> None:
    if len(refused) <= max_refused * images:
        return
    shown = "; ".join(printable(f"{item.path}: {item.reason}") for item in refused[:_SHOWN])
    more = f"; and {len(refused) - _SHOWN} more" if len(refused) > _SHOWN else ""
    raise FrancaError(
        f"{source.title}: {len(refused)} of {images} images refused, prepare.max_refused {max_refused:g} allows "
        f"{int(max_refused * images)}; repair or remove them ({shown}{more})"
    )
