import sys
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from franca.errors import FrancaError
from franca.formats import onnx as writer
from franca.formats.variant import variant
from franca.models.model import Features, FrancaModel
from tests.formats.writing.conftest import Exported, MakeModel, assert_same, expected, make_image, perturbed


@pytest.mark.parametrize(
    ("ffn", "registers", "choices"),
    [
        ("swiglu", 4, {"dim": 8}),
        pytest.param("mlp", 0, {"keep_position": True, "image_size": 48}, marks=pytest.mark.slow),
    ],
)
def test_bytes_to_our_features(
    make_model: MakeModel,
    exported: Exported,
    capsys: pytest.CaptureFixture[str],
    ffn: str,
    registers: int,
    choices: dict[str, Any],
) -> None:
    model, size = make_model(ffn, registers), choices.pop("image_size", 32)
    folder, features = exported(model, "onnx", image_size=size, **choices)
    wanted = expected(model, make_image(size), **choices)
    assert_same(features, wanted)
    assert features.patches.shape == wanted.patches.shape
    assert "checked: ONNX Runtime differs from torch by at most " in capsys.readouterr().out
    assert {path.name for path in folder.iterdir()} == {"model.onnx", "README.md"}

    session = onnxruntime.InferenceSession(folder / "model.onnx")
    images = np.random.default_rng(1).integers(256, size=(5, 3, size, size), dtype=np.uint8)
    pooled, patches = session.run(["pooled", "patches"], {"images": images})
    five = expected_batch(model, torch.from_numpy(images), **choices)
    assert_same(Features(torch.from_numpy(pooled), torch.from_numpy(patches)), five)
    # Every shape but the batch is known to whoever reads the file.
    shapes = [[d.dim_value or d.dim_param for d in o.type.tensor_type.shape.dim] for o in graph(folder).output]
    assert shapes == [["batch", five.pooled.shape[1]], ["batch", *five.patches.shape[1:]]]
    assert "Resize" not in {node.op_type for node in graph(folder).node}

    other = variant(model, choices.get("dim"), size, keep_position=not choices.get("keep_position"))
    with pytest.raises(FrancaError, match=r"onnx: ONNX Runtime's features differ from torch's by .*; not kept"):
        writer.compare(other, folder / "model.onnx")
    other.backbone.norm.bias[0] = torch.nan
    with pytest.raises(FrancaError, match="differ from torch's by nan of nan; not kept"):
        writer.compare(other, folder / "model.onnx")


def graph(folder: Any) -> Any:
    return onnx.load(folder / "model.onnx").graph


def expected_batch(model: FrancaModel, images: torch.Tensor, **choices: Any) -> Features:
    return Features(*variant(model, image_size=images.shape[-1], **choices)(images))


@pytest.mark.slow
def test_models_of_timm(exported: Exported) -> None:
    model = perturbed("test_vit3")
    folder, features = exported(model, "onnx")
    assert_same(features, expected(model, make_image()), 1e-4)
    assert "Resize" not in {node.op_type for node in graph(folder).node}


@pytest.mark.slow
def test_large_weights_lie_beside(make_model: MakeModel, exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "PROTOBUF_LIMIT", 0)
    model = make_model()
    folder, features = exported(model, "onnx")
    assert_same(features, expected(model, make_image()))
    assert {path.name for path in folder.iterdir()} == {"model.onnx", "model.onnx.data", "README.md"}


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "onnxscript"])
def test_a_missing_package_is_named(
    make_model: MakeModel, exported: Exported, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(FrancaError, match=rf"onnx: {package} is not installed; run `pip install -e '.\[onnx\]'`"):
        exported(make_model(), "onnx")
