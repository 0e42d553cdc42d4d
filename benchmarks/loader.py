"""Images a second that the loader alone gives, from packs and from tars on disk and S3; what opening a store costs.

`python -m benchmarks.loader` prints both tables. S3 is a local server (moto, one Python process on the same cores), so
its figures tell that reading works, and little about a real object store.
"""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
import numpy as np

from benchmarks.tables import table
from franca import presets
from franca.data.ingest.prepare import prepare
from franca.data.store.index import IndexWriter, Shard
from franca.data.store.prepared import Store
from franca.data.views.loader import StepDataset, StepLoader
from franca.files import write_json

PRESET = "overhead-cpu"
WARM_UP, STEPS, ROUNDS = 5, 20, 2
ENTRIES = (10**4, 10**5, 10**6, 10**7)
SHARD_ENTRIES = 10_000


def rows() -> list[dict[str, Any]]:
    """One dict a measurement, those of loading first."""
    with tempfile.TemporaryDirectory() as folder:
        return [*loading(Path(folder)), *opening(Path(folder))]


def loading(folder: Path) -> Iterator[dict[str, Any]]:
    """Images a second of `StepLoader` on the demo's data; `folder` takes the stores."""
    source = Path(presets.load(PRESET).prepare.source)
    with s3_server() as url:
        place = f"{url}/images"
        files = fsspec.filesystem("s3")
        for path in sorted(source.rglob("*.tar")):
            files.put_file(str(path), f"{place}/{path.relative_to(source).as_posix()}")
        kinds = {
            "pack, disk": _dataset(folder / "pack", "pack", str(source)),
            "in_place, disk": _dataset(folder / "disk", "in_place", str(source)),
            "in_place, S3": _dataset(folder / "S3", "in_place", place),
        }
        for workers in (0, 1, 2):
            # The best of rounds that take turns: what else the machine does slows all kinds alike.
            rates = [{kind: _rate(dataset, workers) for kind, dataset in kinds.items()} for _ in range(ROUNDS)]
            for kind in kinds:
                best = max(rate[kind] for rate in rates)
                yield {"storage": kind, "workers": workers, "images_per_second": round(best)}


def opening(folder: Path) -> Iterator[dict[str, Any]]:
    """Seconds to open a store and to know the images of the first step, and memory then, for synthetic indexes."""
    for entries in ENTRIES:
        store = folder / str(entries)
        synthetic_store(store, entries)
        command = [sys.executable, "-c", _OPEN, str(store)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        seconds, resident, grown = (float(value) for value in done.stdout.split())
        yield {
            "entries": entries,
            "index_mb": round(sum(path.stat().st_size for path in store.rglob("*")) / 1e6, 1),
            "seconds": round(seconds, 3),
            "resident_mb": round(resident / 1e3, 1),
            "grown_mb": round(grown / 1e3, 1),
        }


_OPEN = """
import sys, time
from pathlib import Path
from franca import presets
from franca.data.views.loader import StepDataset
from franca.data.store.prepared import Store

def resident():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS"))

params = presets.load("overhead-cpu")
before, start = resident(), time.perf_counter()
images = Store(Path(sys.argv[1])).images("train")
StepDataset(images, None, params.base, params.pretrain).indices(10**6)
images.labels[:10]
print(time.perf_counter() - start, resident(), resident() - before)
"""


def synthetic_store(folder: Path, entries: int) -> None:
    """A store whose index speaks of `entries` images in tars that do not exist: 98 % train, one label in 1,000."""
    shard, place = np.divmod(np.arange(entries), SHARD_ENTRIES)
    shards = [Shard(f"{number:05d}.tar", SHARD_ENTRIES * 40_000) for number in range(int(shard[-1]) + 1)]
    columns = {
        "shard": shard,
        "offset": place * 40_000 + 512,
        "length": np.full(entries, 39_000),
        "crc": np.full(entries, 2**32 - 1),
        "height": np.full(entries, 400),
        "width": np.full(entries, 600),
        "label": place % 1000,
        "split": np.searchsorted([98, 99], place % 100, side="right"),
    }
    IndexWriter(folder / "images").write("nowhere", shards, 0.0, None, columns)
    write_json(folder / "manifest.json", {"classes": [str(number) for number in range(1000)], "dense": None})


@contextmanager
def s3_server() -> Iterator[str]:
    """An S3 server of its own process with an empty bucket, which the environment points to; yields its URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    settings = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "benchmark",
        "AWS_SECRET_ACCESS_KEY": "benchmark",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    before = dict(os.environ)
    os.environ.update(settings)
    try:
        while True:
            with socket.socket() as knock:
                if knock.connect_ex(("127.0.0.1", port)) == 0:
                    break
            if server.poll() is not None:
                raise RuntimeError("the S3 server does not start; pip install 'moto[server]'")
            time.sleep(0.1)
        fsspec.filesystem("s3").mkdir("benchmark")
        yield "s3://benchmark"
    finally:
        os.environ.clear()
        os.environ.update(before)
        server.terminate()
        server.wait()


def _dataset(folder: Path, storage: str, source: str) -> StepDataset:
    params = presets.load(PRESET)
    changes = {"storage": storage, "source": source}
    prepare(params.prepare.model_copy(update=changes), folder, threads=params.runtime.threads)
    store = Store(folder)
    return StepDataset(store.images("train"), store.dense("train"), params.base, params.pretrain)


def _rate(dataset: StepDataset, workers: int) -> float:
    start, images = 0.0, 0
    for step, batch in enumerate(StepLoader(dataset, 0, WARM_UP + STEPS, workers, pin=False)):
        if step == WARM_UP - 1:
            start = time.perf_counter()
        if step >= WARM_UP:
            images += sum(len(part.masks) for part in batch.masks) // 2
    return images / (time.perf_counter() - start)


if __name__ == "__main__":
    print(table(rows()))
