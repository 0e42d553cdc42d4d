"""`model.onnx`: uint8 images of one size in, pooled and patch features out, any batch; compared with torch."""

import copy
import logging
import warnings
from pathlib import Path

import timm
import torch

from franca.errors import FrancaError
from franca.formats.card import Contents
from franca.models.model import FrancaModel, load_weights

OPSET = 18
BATCHES = (1, 3)
TOLERANCE = 1e-3
PROTOBUF_LIMIT = 2**31

USAGE = """
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("FOLDER/model.onnx")
images = np.asarray(image).transpose(2, 0, 1)[None]  # uint8 (B, 3, S, S)
pooled, patches = session.run(None, {"images": images})  # float32 (B, N), (B, h, w, N)
"""


def write(model: FrancaModel, folder: Path) -> Contents:
    """Write `model.onnx`, its weights beside it where they pass protobuf's 2 GB, and run it against the model.

    Raises FrancaError where a package is missing, or ONNX Runtime's features are not the model's.
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
    checked = compare(model, path)
    lacks = (
        f"other sizes than {model.image_size} px; `--image-size` makes another one native",
        "features of earlier blocks",
        "the mask token",
    )
    return Contents("onnx", USAGE, lacks, checked)


def _static(model: FrancaModel) -> FrancaModel:
    """The same model whose positions are a constant: timm resamples those of its own models in any traced graph."""
    if not isinstance(model.architecture, str):
        return model
    backbone = timm.create_model(model.architecture, pretrained=False, num_classes=0, img_size=model.image_size)
    load_weights(backbone, model.backbone.state_dict(), model.architecture)
    static = copy.deepcopy(model)
    static.backbone = backbone.eval().requires_grad_(False)
    return static


def _images(model: FrancaModel, count: int) -> torch.Tensor:
    """Random images, uint8 (count, 3, S, S), the same at every call."""
    generator = torch.Generator().manual_seed(count)
    shape = (count, 3, model.image_size, model.image_size)
    return torch.randint(256, shape, generator=generator, dtype=torch.uint8)


def _export(model: FrancaModel, path: Path) -> None:
    # The exporter's own remarks tell the user nothing to do; a fault is an exception.
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
    """The largest difference between ONNX Runtime and torch over random batches of two sizes, told in a line.

    Raises FrancaError where it is no rounding.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    errors, sizes = [], []
    for count in BATCHES:
        images = _images(model, count)
        for got, expected in zip(session.run(None, {"images": images.numpy()}), model(images), strict=True):
            errors.append((torch.from_numpy(got) - expected).abs().max())
            sizes.append(expected.abs().max())
    # Of tensors, whose maximum is NaN where one of them is.
    worst, largest = float(torch.stack(errors).max()), float(torch.stack(sizes).max())
    if not worst <= TOLERANCE * largest:
        raise FrancaError(
            f"onnx: ONNX Runtime's features differ from torch's by {worst:.2g} of {largest:.2g}; not kept"
        )
    batches = " and ".join(map(str, BATCHES))
    return (
        f"ONNX Runtime differs from torch by at most {worst:.1e}, features up to {largest:.2g}, batches of {batches}"
    )
