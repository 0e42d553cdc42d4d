"""ONNX: `model.onnx` maps uint8 images of one size, in batches of any size, to pooled and patch features."""

import copy
import logging
import warnings
from pathlib import Path

import timm
import torch

from franca.errors import FrancaError
from franca.formats.model_card import ExportInfo
from franca.models.model import FrancaModel, load_weights

OPSET = 18
BATCHES = (1, 3)
"""Batch sizes with which the written file is compared with torch."""
TOLERANCE = 1e-3
"""Largest accepted difference, relative to the largest feature."""
PROTOBUF_LIMIT = 2**31
"""Largest protobuf message, in bytes; larger weights go to a second file."""

USAGE = """
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("FOLDER/model.onnx")
images = np.asarray(image).transpose(2, 0, 1)[None]  # uint8 (B, 3, S, S)
pooled, patches = session.run(None, {"images": images})  # float32 (B, N), (B, h, w, N)
"""


def write(model: FrancaModel, folder: Path) -> ExportInfo:
    """Write `model.onnx`, with the weights in a second file if they exceed 2 GB, and compare it with the model.

    Raises:
        FrancaError: A package is missing, or ONNX Runtime's features differ from the model's.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise FrancaError(
            f"onnx: {error.name} is not installed; run `pip install -e '.[onnx]'` in the checkout"
        ) from None
    path = folder / "model.onnx"
    model = _static(model)
    _export(model, path)
    check = compare(model, path)
    missing = (
        f"sizes other than {model.image_size} px; `--image-size` changes the native size",
        "features of earlier blocks",
        "the mask token",
    )
    return ExportInfo("onnx", USAGE, missing, check)


def _static(model: FrancaModel) -> FrancaModel:
    """Return the model with positions as a constant.

    Models of timm with dynamic image size would resample their positions in the exported graph.
    """
    if not isinstance(model.architecture, str):
        return model
    backbone = timm.create_model(model.architecture, pretrained=False, num_classes=0, img_size=model.image_size)
    load_weights(backbone, model.backbone.state_dict(), model.architecture)
    static = copy.deepcopy(model)
    static.backbone = backbone.eval().requires_grad_(False)
    return static


def _images(model: FrancaModel, count: int) -> torch.Tensor:
    """Return random images (count, 3, S, S) uint8; the same for every call."""
    generator = torch.Generator().manual_seed(count)
    shape = (count, 3, model.image_size, model.image_size)
    return torch.randint(256, shape, generator=generator, dtype=torch.uint8)


def _export(model: FrancaModel, path: Path) -> None:
    # The exporter's warnings are about its internals; errors are exceptions.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (_images(model, 2),),
            path,
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=["images"],
            output_names=["pooled", "patches"],
            dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
            external_data=sum(value.nbytes for value in model.state_dict().values()) >= PROTOBUF_LIMIT,
        )


@torch.no_grad()
def compare(model: FrancaModel, path: Path) -> str:
    """Compare ONNX Runtime with torch on random batches; return the largest difference as a sentence.

    Args:
        model: The model.
        path: The ONNX file.

    Raises:
        FrancaError: The difference exceeds rounding (`TOLERANCE`), or is NaN.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    errors, sizes = [], []
    for count in BATCHES:
        images = _images(model, count)
        for got, expected in zip(session.run(None, {"images": images.numpy()}), model(images), strict=True):
            errors.append((torch.from_numpy(got) - expected).abs().max())
            sizes.append(expected.abs().max())
    # torch's max propagates NaN, unlike Python's.
    worst, largest = float(torch.stack(errors).max()), float(torch.stack(sizes).max())
    if not worst <= TOLERANCE * largest:
        raise FrancaError(
            f"onnx: ONNX Runtime's features differ from torch's by {worst:.2g} of {largest:.2g}; use another format"
        )
    batches = " and ".join(map(str, BATCHES))
    return (
        f"ONNX Runtime differs from torch by at most {worst:.1e}, features up to {largest:.2g}, batches of {batches}"
    )
