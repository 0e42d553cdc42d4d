"""The HTTP interface: images in; embeddings, patch maps or nearest neighbors out."""

import asyncio
import io
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
from fastapi import FastAPI, Query, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from numpy.typing import NDArray
from prometheus_client import CONTENT_TYPE_LATEST

from franca import __version__
from franca.inference.neighbors import Index
from franca.models import FrancaModel
from franca.serving.batches import Batcher, Output
from franca.serving.body import read_body
from franca.serving.front import Front
from franca.serving.inputs import ARRAY, TAR, Squares, read_squares
from franca.serving.limits import Limits, Refused
from franca.serving.metrics import Metrics
from franca.serving.served_model import Loaded, ServedModel

BATCH_SECONDS = 0.005
"""Time that the first request of an idle server waits for others."""
FOLLOW_SECONDS = 10.0
"""Interval of questions to the registry, for the version that has the alias."""

_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            kind: {"schema": {"type": "string", "format": "binary"}}
            for kind in ("image/jpeg", "image/png", "image/webp", TAR, ARRAY)
        },
    }
}


class Computed(NamedTuple):
    """What the model has computed for a request."""

    loaded: Loaded
    squares: Squares
    output: Output


def create_app(
    served: ServedModel,
    metrics: Metrics,
    limits: Limits,
    *,
    batch_size: int,
    index: Index | None = None,
    follow_seconds: float = FOLLOW_SECONDS,
) -> Front:
    """Return the application.

    Args:
        served: The model.
        metrics: What `/metrics` shows.
        limits: What is refused.
        batch_size: Images that the model gets at once.
        index: Embeddings for `/neighbors`; None for a server without.
        follow_seconds: Interval of questions for the version that has the alias.
    """
    batcher = Batcher(batch_size, BATCH_SECONDS, metrics)
    decoders = ThreadPoolExecutor(limits.decoders, "decode")

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with batcher:
            following = asyncio.create_task(served.follow(follow_seconds))
            yield
            following.cancel()
        decoders.shutdown(wait=False, cancel_futures=True)

    # The pages of FastAPI load scripts from the internet: leave them out.
    app = FastAPI(title="Franca", version=__version__, docs_url=None, redoc_url=None, lifespan=lifespan)

    async def compute(request: Request, patches: bool) -> Computed:
        """Read a request and run the model on its images."""
        body = await read_body(request, limits)
        loaded = served.loaded
        side, kind = loaded.model.image_size, request.headers.get("content-type", "")
        loop = asyncio.get_running_loop()
        squares = await loop.run_in_executor(decoders, read_squares, body, kind, side, limits)
        if patches:
            _check_patches(len(squares.names), loaded.model, limits)
        output = await batcher.run(loaded.model, squares.pixels, patches)
        metrics.images.inc(len(squares.names))
        return Computed(loaded, squares, output)

    @app.exception_handler(Refused)
    async def refuse(request: Request, error: Refused) -> Response:
        # Close the connection: the rest of a body that was refused is not read.
        return JSONResponse({"detail": error.message}, error.status, {"Connection": "close"})

    @app.post("/embed", openapi_extra=_BODY)
    async def embed(request: Request) -> Response:
        """Return one embedding (D,) for each image."""
        done = await compute(request, patches=False)
        return _respond(request, "embeddings", done.output.pooled, done, limits)

    @app.post("/patches", openapi_extra=_BODY)
    async def patches(request: Request) -> Response:
        """Return the features (h, w, D) of the patches of each image."""
        done = await compute(request, patches=True)
        assert done.output.patches is not None
        return _respond(request, "patches", done.output.patches, done, limits)

    @app.post("/neighbors", openapi_extra=_BODY)
    async def neighbors(request: Request, k: Annotated[int, Query(ge=1, le=100)] = 10) -> Response:
        """Return the most similar images of the index for each image."""
        if index is None:
            raise Refused(404, "neighbors: the server has no index; start it with --index FILE")
        done = await compute(request, patches=False)
        if index.digest != done.loaded.model.digest:
            raise Refused(409, "neighbors: the index is of another model; run `franca embed` with the present one")
        queries = torch.from_numpy(done.output.pooled)
        found = await asyncio.to_thread(index.search, queries, k)
        matches = [[match._asdict() for match in row] for row in found]
        return JSONResponse({**_about(done), "neighbors": matches})

    @app.get("/version")
    async def version() -> dict[str, Any]:
        """Return what is served."""
        loaded = served.loaded
        model = loaded.model
        return {
            "franca": __version__,
            "model": served.source,
            "version": loaded.version or None,
            "digest": model.digest,
            "loaded": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(loaded.time)),
            "device": str(next(model.parameters()).device),
            "image_size": model.image_size,
            "patch_size": model.patch_size,
            "dimensions": model.embed_dim,
            "levels": list(model.levels),
            "index": len(index) if index is not None else None,
            "limits": {"bytes": limits.body_bytes, "pixels": limits.pixels, "images": limits.images},
        }

    @app.get("/health/live")
    async def live() -> dict[str, str]:
        """Answer as long as the process works."""
        return {"status": "live"}

    @app.get("/health/ready")
    async def ready() -> Response:
        """Return status 503 while all places for requests are taken."""
        return JSONResponse({"status": "busy"}, 503) if front.busy else JSONResponse({"status": "ready"})

    @app.get("/metrics")
    async def show_metrics() -> Response:
        """Return metrics for Prometheus."""
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    front = Front(app, metrics, limits.requests)
    return front


def _check_patches(images: int, model: FrancaModel, limits: Limits) -> None:
    numbers = images * (model.image_size // model.patch_size) ** 2 * model.embed_dim
    if numbers > limits.numbers:
        raise Refused(413, f"patches: {numbers:,} numbers, more than {limits.numbers:,}; send fewer images")


def _about(done: Computed) -> dict[str, Any]:
    return {"version": done.loaded.version or None, "digest": done.loaded.model.digest, "names": done.squares.names}


def _respond(request: Request, name: str, values: NDArray[np.float32], done: Computed, limits: Limits) -> Response:
    """Return an array as JSON, or in NumPy's format if the client accepts that."""
    headers = {"Franca-Version": done.loaded.version, "Franca-Digest": done.loaded.model.digest}
    if ARRAY in request.headers.get("accept", ""):
        file = io.BytesIO()
        np.save(file, values, allow_pickle=False)
        # In parts, so that the request keeps its place until the client has taken them.
        size = {"Content-Length": str(len(file.getbuffer()))}
        return StreamingResponse(_parts(file.getbuffer()), media_type=ARRAY, headers=headers | size)
    if values.size > limits.json_numbers:
        raise Refused(406, f"{name}: {values.size:,} numbers are too many for JSON; send the header `Accept: {ARRAY}`")
    return JSONResponse({**_about(done), name: values.tolist()}, headers=headers)


async def _parts(content: memoryview, size: int = 1 << 18) -> AsyncIterator[bytes]:
    for start in range(0, len(content), size):
        yield bytes(content[start : start + size])
