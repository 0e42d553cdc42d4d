"""The prepare stage: the images that `params.prepare` names in, `prepared/` out."""

import errno
import os
import shutil

from franca.data.ingest.manifest import headline
from franca.data.ingest.prepare import prepare
from franca.data.ingest.sources import list_ignored
from franca.data.store.files.names import printable
from franca.errors import FrancaError
from franca.files import recover_folder, replace_folder, write_json
from franca.params import Params
from franca.paths import PREPARED, RESULTS
from franca.process import listen_for_stop


def run(params: Params) -> None:
    """Fill `prepared/` from the sources that `params.prepare` names; on any fault it stays as it was."""
    stop = listen_for_stop()
    # It may be a link to a larger disk, and only a folder on the same disk can take the place of another.
    prepared = PREPARED.resolve() if PREPARED.is_symlink() else PREPARED
    partial = prepared.with_name(f"{prepared.name}.partial")
    try:
        recover_folder(prepared)
        shutil.rmtree(partial, ignore_errors=True)
        manifest = prepare(params.prepare, partial, params.runtime.threads, lambda: bool(stop))
        replace_folder(partial, prepared)
        metrics = {name: headline(part) for name, part in (("images", manifest), ("dense", manifest["dense"])) if part}
        write_json(RESULTS / "prepare/metrics.json", metrics)
    except OSError as error:
        raise FrancaError(_fault(error)) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    for part in (manifest, manifest["dense"]):
        if part and part["source"]["ignored"]:
            print(f"{printable(part['source']['path'])}: left alone {list_ignored(part['source']['ignored'])}")
    for name, numbers in metrics.items():
        print(f"{name}: " + ", ".join(f"{value:,} {key.replace('_', ' ')}" for key, value in numbers.items()))


def _fault(error: OSError) -> str:
    """One line for a fault of the file system."""
    where = printable(os.fsdecode(error.filename or PREPARED))
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT | errno.EFBIG:
            return f"{where}: {error.strerror}; make room and run the stage again"
        case errno.EACCES | errno.EPERM:
            return f"{where}: permission denied; make it readable (chmod u+r), its folder too (chmod u+rx)"
        case _:
            return f"{where}: {error.strerror or error}"
