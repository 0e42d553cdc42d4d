"""The prepare stage: read the sources that the parameters name and write `prepared/`, or a store in `datasets/`."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from franca.data.ingest.manifest import headline
from franca.data.ingest.prepare import prepare, prepare_dataset
from franca.data.store.files.names import list_ignored, printable
from franca.errors import FrancaError
from franca.files import recover_folder, replace_folder, write_json
from franca.params import Params
from franca.paths import DATASETS, PREPARED, RESULTS
from franca.process import listen_for_stop


def run(params: Params, dataset: str | None = None) -> None:
    """Replace `prepared/` or `datasets/NAME` by a store of what the parameters name; on any error it stays unchanged.

    Args:
        params: All parameters.
        dataset: Name of a data set of evaluation; None for the training images.

    Raises:
        FrancaError: A source is invalid, the stage was stopped (`Stopped`), or a disk failed.
    """
    stop = listen_for_stop()
    threads = params.runtime.threads
    if dataset is None:
        manifest = _replace(PREPARED, lambda new: prepare(params.prepare, new, threads, lambda: bool(stop)))
        results = RESULTS / "prepare/metrics.json"
    else:
        about, key = params.dataset(dataset), f"datasets.{dataset}"
        manifest = _replace(
            DATASETS / dataset,
            lambda new: prepare_dataset(about, key, params.prepare, new, threads, lambda: bool(stop)),
        )
        results = RESULTS / f"datasets/{dataset}/prepare.json"
    found = {"images": manifest} | {name: manifest.get(name) for name in ("dense", "boxes", "video")}
    parts = {name: part for name, part in found.items() if part and "counts" in part}
    metrics = {name: headline(part) for name, part in parts.items()}
    write_json(results, metrics)
    for part in parts.values():
        if part["source"]["ignored"]:
            print(f"{printable(part['source']['path'])}: ignored {list_ignored(part['source']['ignored'])}")
    for name, numbers in metrics.items():
        print(f"{name}: " + ", ".join(f"{value:,} {key.replace('_', ' ')}" for key, value in numbers.items()))


def _replace(store: Path, write: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """Replace a store by the one that `write` writes into a new folder; return its manifest."""
    # The store may be a link to a larger disk. A folder can only be replaced by another one on the same disk.
    store = store.resolve() if store.is_symlink() else store
    partial = store.with_name(f"{store.name}.partial")
    try:
        recover_folder(store)
        shutil.rmtree(partial, ignore_errors=True)
        manifest = write(partial)
        replace_folder(partial, store)
    except OSError as error:
        raise FrancaError(_describe(error, store)) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return manifest


def _describe(error: OSError, store: Path) -> str:
    """Return an error of the file system in one line, with the fix."""
    where = printable(os.fsdecode(error.filename or store))
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT | errno.EFBIG:
            return f"{where}: {error.strerror}; free disk space and run the stage again"
        case errno.EACCES | errno.EPERM:
            return f"{where}: permission denied; make it readable (chmod u+r), its folder too (chmod u+rx)"
        case _:
            return f"{where}: {error.strerror or error}; check the disk and run the stage again"
