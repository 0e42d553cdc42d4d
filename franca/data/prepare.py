"""The prepare stage: verify, split and pack the images, and write down what became of each."""

import errno
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from franca.data.dense import DenseSource
from franca.data.duplicates import group_duplicates, join
from franca.data.ingest import Refused, Table, ingest
from franca.data.sources import Source
from franca.data.splits import NONE, TRAIN, assign_splits
from franca.data.store import SPLITS, PackWriter, SplitName
from franca.errors import FrancaError
from franca.files import write_json
from franca.params import Params, Prepare
from franca.paths import PREPARED, RESULTS
from franca.process import listen_for_stop

_SHOWN = 3


def run(params: Params) -> None:
    """Fill `prepared/` from the sources that `params.prepare` names; on any fault it stays as it was."""
    stop = listen_for_stop()
    partial = PREPARED.with_name(f"{PREPARED.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        manifest = prepare(params.prepare, partial, params.runtime.threads, lambda: bool(stop))
        if PREPARED.exists():
            shutil.rmtree(PREPARED)
        partial.rename(PREPARED)
        metrics = {"images": _metrics(manifest)}
        if manifest["dense"]:
            metrics["dense"] = _metrics(manifest["dense"])
        write_json(RESULTS / "prepare/metrics.json", metrics)
    except OSError as error:
        raise FrancaError(_fault(error)) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    for name, counts in metrics.items():
        print(f"{name}: " + ", ".join(f"{value} {key.replace('_', ' ')}" for key, value in counts.items()))


def prepare(
    params: Prepare, folder: Path, threads: int = 1, stop: Callable[[], bool] = lambda: False
) -> dict[str, Any]:
    """Write the store into `folder`, its manifest last; returns the manifest."""
    source = Source(Path(params.source), "prepare.source")
    dense = DenseSource(Path(params.dense_source), "prepare.dense_source") if params.dense_source else None

    images = PackWriter(folder / "images")
    table = ingest(source, images, None, threads, stop)
    manifest = _finish(source, table, params, {"images": images})

    manifest["dense"] = None
    if dense:
        packs = {
            "dense/images": PackWriter(folder / "dense/images"),
            "dense/masks": PackWriter(folder / "dense/masks"),
        }
        table = ingest(dense, packs["dense/images"], packs["dense/masks"], threads, stop)
        manifest["dense"] = _finish(dense, table, params, packs) | dense.about.model_dump()
    write_json(folder / "manifest.json", manifest)
    return manifest


def _finish(
    source: Source | DenseSource, table: Table, params: Prepare, packs: dict[str, PackWriter]
) -> dict[str, Any]:
    """Split what was packed, close the packs, and describe it all."""
    groups = group_duplicates(table.hashes, params.duplicate_bits)
    units = groups
    if isinstance(source, DenseSource):
        _, first, scene = np.unique([str(s) for s in table.scenes], return_index=True, return_inverse=True)
        units = join(groups, np.arange(len(table)), first[scene])
    fractions: dict[SplitName, float] = {"val": params.val_fraction, "test": params.test_fraction}
    split = assign_splits(groups, units, table.keys, table.given, fractions)
    dropped = np.flatnonzero(split == NONE)

    labels = table.class_names
    known = {labels[row] for row in np.flatnonzero(split == TRAIN)}
    refused = list(table.refused)
    for row in np.flatnonzero(split > TRAIN):
        if labels[row] not in known:
            refused.append(Refused(table.names[row], f"class {labels[row]} has too few images: none is in train"))
            split[row] = NONE
    _check_refused(source, refused, len(table) + len(table.refused), params.max_refused)
    for number, name in enumerate(SPLITS):
        if number not in split:
            raise FrancaError(
                f"{source.folder}: no image for {name}: {units.max() + 1} different images or scenes are too few to "
                "split; add more, or lay them in train, val and test folders"
            )

    classes = sorted(name for name in known if name is not None)
    numbers = {name: number for number, name in enumerate(classes)}
    label = np.array([numbers.get(name or "", -1) for name in labels], dtype=np.int64)
    heights, widths, _ = table.sizes.T
    files: dict[str, str] = {}
    for pack_name, pack in packs.items():
        closed = pack.close(split != NONE, height=heights, width=widths, label=label, split=split)
        files |= {f"{pack_name}/{name}": digest for name, digest in closed.items()}
    return {
        "source": {
            "path": str(source.folder),
            "layout": source.layout,
            "sha256": table.source_digest,
            "ignored": dict(sorted(source.ignored.items())),
        },
        "classes": classes,
        "counts": {name: _counts(label[split == number], classes) for number, name in enumerate(SPLITS)},
        "channels": _channels(table, split == TRAIN),
        "sizes": _sizes(table.sizes[split != NONE]),
        "refused": [asdict(item) for item in refused],
        "duplicates": _duplicates(table, groups, split, dropped) | {"bits": params.duplicate_bits},
        "files": files,
    }


def _check_refused(source: Source | DenseSource, refused: list[Refused], images: int, max_refused: float) -> None:
    if len(refused) <= max_refused * images:
        return
    shown = "; ".join(f"{item.path}: {item.reason}" for item in refused[:_SHOWN])
    more = f"; and {len(refused) - _SHOWN} more" if len(refused) > _SHOWN else ""
    raise FrancaError(
        f"{source.folder}: {len(refused)} of {images} images refused, more than prepare.max_refused {max_refused:g} "
        f"allows; mend or remove them ({shown}{more})"
    )


def _counts(labels: NDArray[np.int64], classes: list[str]) -> dict[str, Any]:
    by_class = np.bincount(labels[labels >= 0], minlength=len(classes))
    return {"images": len(labels), "classes": dict(zip(classes, by_class.tolist(), strict=True))}


def _channels(table: Table, train: NDArray[np.bool_]) -> dict[str, list[float]]:
    """Mean and standard deviation of R, G and B over all pixels of the train images, bytes taken as 0 to 1."""
    pixels = table.sizes[train, :2].prod(axis=1).sum()
    mean, square = table.sums[train].sum(axis=0) / pixels / np.array([[255.0], [255.0**2]])
    return {"mean": mean.round(6).tolist(), "std": np.sqrt(square - mean**2).round(6).tolist()}


def _sizes(sizes: NDArray[np.int64]) -> dict[str, dict[str, int]]:
    """Smallest, median and largest height and width, in pixels, and length, in bytes."""
    return {
        name: {"min": int(values.min()), "median": int(np.median(values)), "max": int(values.max())}
        for name, values in zip(("height", "width", "bytes"), sizes.T, strict=True)
    }


def _duplicates(
    table: Table, groups: NDArray[np.int64], split: NDArray[np.int64], dropped: NDArray[np.int64]
) -> dict[str, Any]:
    """Groups of images that look the same, and the images dropped because a group straddled given splits."""
    members: dict[int, list[int]] = {}
    for row in np.flatnonzero(np.bincount(groups)[groups] > 1):
        members.setdefault(int(groups[row]), []).append(int(row))
    kept = {
        int(row): next((other for other in members[int(groups[row])] if split[other] != NONE), None) for row in dropped
    }
    return {
        "images": sum(len(rows) for rows in members.values()),
        "largest": max((len(rows) for rows in members.values()), default=0),
        "groups": [[table.names[row] for row in rows] for rows in members.values()],
        "dropped": [
            {"path": table.names[row], "same_as": table.names[other] if other is not None else None}
            for row, other in kept.items()
        ],
    }


def _metrics(part: dict[str, Any]) -> dict[str, int]:
    """The counts that `dvc metrics diff` shows."""
    counts = {name: part["counts"][name]["images"] for name in SPLITS}
    return counts | {
        "classes": len(part["classes"]),
        "refused": len(part["refused"]),
        "duplicate_groups": len(part["duplicates"]["groups"]),
        "dropped": len(part["duplicates"]["dropped"]),
    }


def _fault(error: OSError) -> str:
    """One line for a fault of the file system."""
    where = error.filename or PREPARED
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT | errno.EFBIG:
            return f"{where}: no space left ({error.strerror}); free some and run the stage again"
        case errno.EACCES | errno.EPERM:
            return f"{where}: permission denied; make it readable (chmod u+r), its folder too (chmod u+rx)"
        case _:
            return f"{where}: {error.strerror or error}"
