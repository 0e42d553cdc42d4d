"""Make a prepared store: read every image once, group duplicates, split, write."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from franca.data.ingest.duplicates import group_duplicates, join
from franca.data.ingest.manifest import describe, describe_duplicates, describe_exposure
from franca.data.ingest.scan import ImageTable, RefusedImage, scan
from franca.data.ingest.sources.davis import open_davis
from franca.data.ingest.sources.mask_pairs import MaskPairSource
from franca.data.ingest.sources.masks import MaskSource
from franca.data.ingest.sources.open_source import open_dense_source, open_source
from franca.data.ingest.sources.source import Sample, Source
from franca.data.ingest.sources.voc_boxes import open_voc_boxes
from franca.data.ingest.splits import NONE, TRAIN, assign_splits
from franca.data.store.files.names import printable
from franca.data.store.in_place import InPlaceWriter
from franca.data.store.index import SPLITS, SplitName
from franca.data.store.pack import PackWriter
from franca.errors import FrancaError
from franca.files import sha256_file, write_json
from franca.params import Dataset, Prepare

_SHOWN = 3
"""Number of refused images that an error message lists."""
ANNOTATED: Mapping[str, tuple[str, Callable[[str, str], MaskPairSource]]] = {
    "boxes": ("boxes", open_voc_boxes),
    "video": ("video", open_davis),
}
"""For each task to which nothing is fitted, its part of the store and a function that opens its source."""
Writers = Mapping[str, PackWriter | InPlaceWriter]
"""Writers of a source's images and masks, by their folder in the store."""


def prepare(
    params: Prepare, folder: Path, threads: int = 1, stop: Callable[[], bool] = lambda: False
) -> dict[str, Any]:
    """Write a store of the training images into the new `folder`, its manifest last.

    Args:
        params: The sources and how to split them.
        folder: The folder to create.
        threads: Number of threads that decode images.
        stop: Asked now and then whether to stop.

    Returns:
        The manifest.

    Raises:
        FrancaError: A source is invalid, has too few images or too many unreadable ones, or (`Stopped`) `stop`
            returned true.
        OSError: A disk failed.
    """
    # Open both before the long pass over the first, so that errors in the second one come at once.
    source = open_source(params.source, "prepare.source")
    dense = open_dense_source(params.dense_source, "prepare.dense_source") if params.dense_source else None
    if params.storage == "in_place":
        manifest = _prepare_in_place(source, folder, params, threads, stop)
    else:
        manifest = _prepare_packed(source, folder, params, threads, stop)
    manifest["dense"] = _prepare_dense(dense, folder, params, threads, stop) if dense else None
    write_json(folder / "manifest.json", manifest)
    return manifest


def prepare_dataset(
    dataset: Dataset,
    key: str,
    params: Prepare,
    folder: Path,
    threads: int = 1,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Write a store of a data set of evaluation into the new `folder`, its manifest last.

    A set with masks becomes the store's dense set, one with boxes or videos a part of its own; the
    store then has no other images.

    Args:
        dataset: The data set.
        key: The parameter that names it, for messages.
        params: How to split it, if it has no folders for that, and how many images may be unreadable.
        folder: The folder to create.
        threads: Number of threads that decode images.
        stop: Asked now and then whether to stop.

    Returns:
        The manifest.

    Raises:
        FrancaError: As for `prepare`; also if a data set for classification has no classes.
        OSError: A disk failed.
    """
    if dataset.task == "classification":
        manifest = _prepare_packed(open_source(dataset.path, f"{key}.path"), folder, params, threads, stop)
        if not manifest["classes"]:
            raise FrancaError(
                f"{printable(dataset.path)}: its images have no classes; put each class into a folder of its own, or"
                f" change {key}.task"
            )
        manifest["dense"] = None
    elif dataset.task == "segmentation":
        dense = _prepare_dense(open_dense_source(dataset.path, f"{key}.path"), folder, params, threads, stop)
        manifest = _without_images(folder, dense) | {"dense": dense}
    else:
        name, open_as = ANNOTATED[dataset.task]
        part = _prepare_annotated(open_as(dataset.path, key), folder, name, params, threads, stop)
        manifest = _without_images(folder, part) | {"dense": None, name: part}
    write_json(folder / "manifest.json", manifest)
    return manifest


def _without_images(folder: Path, part: dict[str, Any]) -> dict[str, Any]:
    """Write an index without images, and return the manifest of a store whose images are those of a part."""
    nothing = np.zeros(0, dtype=np.int64)
    with PackWriter(folder / "images") as images:
        files = images.close(height=nothing, width=nothing, label=nothing, split=nothing)
    digests = {f"images/{name}": digest for name, digest in files.items()}
    return {"classes": [], "channels": part["channels"], "files": digests}


def _prepare_annotated(
    source: MaskPairSource, folder: Path, part: str, params: Prepare, threads: int, stop: Callable[[], bool]
) -> dict[str, Any]:
    """Write images and what a benchmark knows about each into the packs `images` and `annotations` of a part.

    Nothing is fitted to such a set, so its images stay in the splits of the source, and duplicates are not looked for.
    """
    with PackWriter(folder / part / "images") as images, PackWriter(folder / part / "annotations") as annotations:

        def keep(sample: Sample) -> None:
            images.add(sample.content)
            annotations.add(sample.mask or b"")

        table = scan(source, keep, threads, stop)
        _check_refused(source, table.refused, len(table) + len(table.refused), params.max_refused)
        duplicates = describe_duplicates(table, np.arange(len(table)), table.given, params.duplicate_bits)
        unlabeled = np.full(len(table), NONE)
        manifest = describe(source, table, table.given, unlabeled, [], table.refused, duplicates)
        columns: dict[str, NDArray[np.int64]] = {}
        if any(table.scenes):
            scenes = sorted({scene or "" for scene in table.scenes})
            manifest["scenes"] = scenes
            columns = {"scene": np.searchsorted(scenes, [scene or "" for scene in table.scenes])}
        writers = {f"{part}/images": images, f"{part}/annotations": annotations}
        files = _write(writers, table, unlabeled, table.given, params, columns)
        return manifest | {"files": files} | source.about()


def _prepare_packed(
    source: Source, folder: Path, params: Prepare, threads: int, stop: Callable[[], bool]
) -> dict[str, Any]:
    """Write the images into packs."""
    with PackWriter(folder / "images") as images:
        table = scan(source, lambda sample: images.add(sample.content), threads, stop)
        return _split_and_write(source, table, {"images": images}, params, folder)


def _prepare_dense(
    source: MaskSource, folder: Path, params: Prepare, threads: int, stop: Callable[[], bool]
) -> dict[str, Any]:
    """Write the images and masks of a dense set into packs."""
    with PackWriter(folder / "dense/images") as images, PackWriter(folder / "dense/masks") as masks:

        def keep(sample: Sample) -> None:
            images.add(sample.content)
            masks.add(sample.mask or b"")

        table = scan(source, keep, threads, stop)
        writers = {"dense/images": images, "dense/masks": masks}
        return _split_and_write(source, table, writers, params, folder, "dense")


def _prepare_in_place(
    source: Source, folder: Path, params: Prepare, threads: int, stop: Callable[[], bool]
) -> dict[str, Any]:
    """Write an index of the images, which stay in the source's tars."""
    if not source.shards:
        raise FrancaError(
            f"prepare.storage: in_place is for tars, and {source.title} holds loose images; "
            "set pack, or put the images into tars"
        )
    images = InPlaceWriter(folder / "images", source.place, source.shards)
    table = scan(source, lambda sample: images.add(sample.content, sample.shard, sample.offset), threads, stop)
    return _split_and_write(source, table, {"images": images}, params, folder)


def _split_and_write(
    source: Source, table: ImageTable, writers: Writers, params: Prepare, store: Path, part: str = ""
) -> dict[str, Any]:
    """Group duplicates, split, and write index and lists of one source.

    Args:
        source: The source, after the pass over it.
        table: The result of the pass.
        writers: Writers that already have the accepted images, in the order of `table`.
        params: How to split.
        store: The store's folder.
        part: Folder in the store for the lists, "" for the store itself.

    Returns:
        The source's part of the manifest.
    """
    total = len(table) + len(table.refused)
    _check_refused(source, table.refused, total, params.max_refused)

    # group
    groups = group_duplicates(table.hashes, params.duplicate_bits)

    # split
    split = _split(source, table, groups, params)
    duplicates = describe_duplicates(table, groups, split, params.duplicate_bits)
    refused = table.refused + _refuse_classes_without_train(table, split)
    _check_refused(source, refused, total, params.max_refused)
    _check_splits(source, split)

    # describe
    classes = _list_classes(source, table, split)
    numbers = {name: number for number, name in enumerate(classes)}
    label = np.array([numbers.get(name or "", -1) for name in table.class_names], dtype=np.int64)
    manifest = describe(source, table, split, label, classes, refused, duplicates)
    if warning := describe_exposure(manifest["channels"]):
        print(f"{source.title}: {warning}", file=sys.stderr)

    # write
    files = _write(writers, table, label, split, params)
    for path, content in (
        (store / part / "refused.json", [asdict(image) for image in refused]),
        (store / part / "duplicates.json", duplicates),
    ):
        write_json(path, content)
        files[path.relative_to(store).as_posix()] = sha256_file(path)
    return manifest | {"files": files} | source.about()


def _write(
    writers: Writers,
    table: ImageTable,
    label: NDArray[np.int64],
    split: NDArray[np.int64],
    params: Prepare,
    more: Mapping[str, NDArray[np.int64]] = MappingProxyType({}),
) -> dict[str, str]:
    """Close the writers with the columns of the images, (N,) each; return the SHA-256 of each file by name."""
    files: dict[str, str] = {}
    heights, widths, _ = table.sizes.T
    columns = {"height": heights, "width": widths, "label": label, "split": split} | dict(more)
    for name, writer in writers.items():
        written = writer.close(split != NONE, params.max_refused, **columns)
        files |= {f"{name}/{file}": digest for file, digest in written.items()}
    return files


def _split(source: Source, table: ImageTable, groups: NDArray[np.int64], params: Prepare) -> NDArray[np.int64]:
    """Return the split number of each image, shape (N,); NONE for a duplicate of an image in a higher split.

    Raises:
        FrancaError: A split would have no images.
    """
    units = groups
    if any(scene is not None for scene in table.scenes):
        # Neighboring tiles of a scene overlap or look alike, so a scene is drawn as one unit.
        _, first, scene = np.unique([str(s) for s in table.scenes], return_index=True, return_inverse=True)
        units = join(groups, np.arange(len(table)), first[scene])
    fractions: dict[SplitName, float] = {"val": params.val_fraction, "test": params.test_fraction}
    names = sorted({name for name in table.class_names if name})
    numbers = {name: number for number, name in enumerate(names)}
    classes = np.array([numbers.get(name or "", NONE) for name in table.class_names], dtype=np.int64)
    split = assign_splits(groups, units, table.keys, table.given, fractions, classes)
    _check_splits(source, split)
    return split


def _refuse_classes_without_train(table: ImageTable, split: NDArray[np.int64]) -> list[RefusedImage]:
    """Remove images from val and test if train has no image of their class; no model could recognize them.

    Args:
        table: The images.
        split: Split number of each image, shape (N,); changed in place.

    Returns:
        The removed images.
    """
    trained = {table.class_names[row] for row in np.flatnonzero(split == TRAIN)}
    refused = []
    for row in np.flatnonzero(split > TRAIN):
        class_name = table.class_names[row]
        if class_name not in trained:
            split[row] = NONE
            reason = f"class {class_name} has too few images to split: none is left for train"
            refused.append(RefusedImage(table.names[row], reason))
    return refused


def _list_classes(source: Source, table: ImageTable, split: NDArray[np.int64]) -> list[str]:
    """Return the classes of the kept images by name; none, with a warning, if there are fewer than two."""
    kept = zip(table.class_names, split, strict=True)
    classes = sorted({name for name, number in kept if name and number != NONE})
    if len(classes) >= 2 or not source.has_classes:
        return classes
    # With one class, every model would score 100 %.
    found = f"only one class ({printable(classes[0])})" if classes else "no classes"
    skipped = "images are treated as unlabelled, so k-NN and the linear probe are skipped"
    print(f"{source.title}: {found}; {skipped}", file=sys.stderr)
    return []


def _check_splits(source: Source, split: NDArray[np.int64]) -> None:
    """Raise FrancaError if a split has no images."""
    missing = [name for number, name in enumerate(SPLITS) if number not in split]
    if missing:
        raise FrancaError(
            f"{source.title}: no image for {' and '.join(missing)}: too few {source.split_unit} to split; add more, "
            "or put them into train, val and test folders"
        )


def _check_refused(source: Source, refused: list[RefusedImage], total: int, max_refused: float) -> None:
    """Raise FrancaError if more than the share `max_refused` of all images is refused."""
    if len(refused) <= max_refused * total:
        return
    shown = "; ".join(printable(f"{image.path}: {image.reason}") for image in refused[:_SHOWN])
    more = f"; and {len(refused) - _SHOWN} more" if len(refused) > _SHOWN else ""
    raise FrancaError(
        f"{source.title}: {len(refused)} of {total} images refused, prepare.max_refused {max_refused:g} allows "
        f"{int(max_refused * total)}; repair or remove them ({shown}{more})"
    )
