"""The application with a small model, called without a network."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from franca.inference.neighbors import Index
from franca.serving.app import create_app
from franca.serving.limits import Limits
from franca.serving.metrics import Metrics
from franca.serving.served_model import ServedModel
from tests.inference.conftest import model_folder as model_folder
from tests.inference.conftest import photos as photos
from tests.inference.conftest import picture as picture

LIMITS = Limits(body_bytes=200_000, pixels=100_000, images=8)


def application(model: Path, limits: Limits = LIMITS, index: Index | None = None, **options: Any) -> Any:
    import torch

    metrics = Metrics()
    served = ServedModel(str(model), torch.device("cpu"), metrics)
    return create_app(served, metrics, limits, batch_size=4, index=index, **options)


@pytest.fixture
def client(model_folder: Path) -> Iterator[TestClient]:
    with TestClient(application(model_folder)) as found:
        yield found


def encoded(size: tuple[int, int] = (48, 40), format: str = "PNG", color: str = "teal") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, color).save(file, format)
    return file.getvalue()


def npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()
