"""The `serve` command: a model behind HTTP."""

from pathlib import Path
from typing import Literal

import uvicorn
from PIL import Image

from franca.data.store.files.names import printable
from franca.errors import FrancaError
from franca.inference.neighbors import read_index
from franca.runtime import device_of
from franca.serving.app import create_app
from franca.serving.limits import Limits
from franca.serving.metrics import Metrics
from franca.serving.served_model import ServedModel
from franca.serving.slow_clients import Protocol

CONNECTIONS = 256
"""Open connections; further ones get status 503."""
GRACE_SECONDS = 30
"""Time that requests have to end after SIGTERM."""


def run(
    source: str,
    *,
    host: str,
    port: int,
    index: Path | None,
    batch_size: int,
    limits: Limits,
    device: Literal["auto", "cpu", "cuda"],
) -> None:
    """Serve until SIGTERM or SIGINT; requests that have begun are answered.

    Args:
        source: Model, as `franca.load` takes it. If it is an alias of the registry, the server follows it.
        host: Address to listen on.
        port: Port; 0 for a free one, which the log names.
        index: Parquet file of `franca embed` for `/neighbors`.
        batch_size: Images that the model gets at once.
        limits: What is refused.
        device: Where the model runs.

    Raises:
        FrancaError: There is no such model or index, they do not belong together, or the port is taken.
    """
    for option, value in (
        ("--batch-size", batch_size),
        ("--max-images", limits.images),
        ("--max-pixels", limits.pixels),
        ("--max-bytes", limits.body_bytes),
    ):
        if value < 1:
            raise FrancaError(f"{option} {value}: must be 1 or more")
    # `franca embed` skips images above this, too.
    if limits.pixels > (Image.MAX_IMAGE_PIXELS or 0):
        raise FrancaError(f"--max-pixels {limits.pixels}: must be at most {Image.MAX_IMAGE_PIXELS}, Pillow's limit")
    metrics = Metrics()
    served = ServedModel(source, device_of(device, "--device"), metrics)
    found = read_index(index) if index is not None else None
    if found is not None:
        try:
            found.check(served.loaded.model, source)
        except FrancaError as error:
            raise FrancaError(f"{printable(str(index))}: {error}") from None
    app = create_app(served, metrics, limits, batch_size=batch_size, index=found)
    config = uvicorn.Config(
        app,
        host,
        port,
        http=Protocol,
        ws="none",
        access_log=False,  # /metrics has the counts
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=GRACE_SECONDS,
        server_header=False,
    )
    try:
        uvicorn.Server(config).run()
    except SystemExit as error:
        if error.code:
            raise FrancaError(f"{host}:{port}: cannot listen, see the log above; choose another --port") from None
