"""9: the disentangle stage, and the features and k-NN predictions of evaluation, on this device and on the CPU.

Without a GPU, the CPU is compared with itself, so that this code is tested.
"""

import tempfile
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.gpu_check.finding import Finding, at_most, holds
from benchmarks.gpu_check.images import make_store
from benchmarks.gpu_check.subject import relative, tiny_params
from franca.data.store.prepared import Store
from franca.evaluation.benchmarks import knn
from franca.evaluation.extractors import model_extractor
from franca.evaluation.features import extract_all
from franca.files import read_json
from franca.models import load_model, random_model, save_model
from franca.params import Params
from franca.paths import MODEL, PREPARED, PRETRAINED, RESULTS
from franca.runtime import choose_device, configure_torch
from franca.stages import disentangle

CHANGES = {"disentangle.rounds": 2, "disentangle.epochs": 2, "disentangle.images": 64, "evaluate.knn_k": 5}
LIMIT = 2e-2
"""On a GPU, networks run in bfloat16; with that emulated on a CPU, the difference is 0.4 %."""


def run(device: torch.device) -> Iterator[Finding]:
    """Compare RASA, features and k-NN predictions of the device with those of the CPU."""
    images = 600 if device.type == "cuda" else 60
    # The stages' paths are relative to the project.
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        params = {name: tiny_params(CHANGES | {"runtime.device": name}) for name in ("cpu", device.type)}
        configure_torch(params["cpu"].runtime)
        store = make_store(Path(folder), params["cpu"], images, (72, 64), "png")
        assert store.folder == Path(folder) / PREPARED
        save_model(random_model(params["cpu"].base), PRETRAINED)
        expected, got = _outcome(store, params["cpu"]), _outcome(store, params[device.type])
    yield at_most("RASA: projection without its planes, relative difference", relative(got[0], expected[0]), 1e-2)
    worst = max(abs(got[1][name] - expected[1][name]) for name in expected[1])
    yield at_most("RASA: R^2 of position, difference in points", worst, 1.0)
    for name, own, other in zip(("pooled", "patch"), got[2:4], expected[2:4], strict=True):
        yield at_most(f"{name} features: relative difference", relative(own, other), LIMIT)
    equal = float((got[4] == expected[4]).float().mean())
    yield holds("k-NN predictions", equal > 0.97, f"{equal:.2%} of {len(got[4])} equal", "> 97 %")


def _outcome(store: Store, params: Params) -> tuple[Tensor, dict[str, float], Tensor, Tensor, Tensor]:
    """Return RASA's projection and metrics, the pretrained model's features, and its k-NN predictions on val."""
    disentangle.run(params)
    metrics = read_json(RESULTS / "disentangle/metrics.json")["position_r2"]
    extractor = model_extractor("franca", load_model(PRETRAINED), choose_device(params.runtime))
    data = extract_all([extractor], store)["franca"]
    predicted, _ = knn.predict(data, "val", params)
    projection = load_model(MODEL).patch_projection
    return projection, metrics, data.splits["train"].pooled.cpu(), data.splits["train"].patches.cpu(), predicted.cpu()
