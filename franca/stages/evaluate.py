"""The evaluate stage: `models/franca`, comparators and baselines measured, `results/evaluate` out."""

from pathlib import Path

from franca.data.store.prepared import Store
from franca.evaluation import pictures, report
from franca.evaluation.baselines import color_histogram, model_backbone, raw_pixels
from franca.evaluation.comparison import OURS
from franca.evaluation.outcomes import FILE, write_outcomes
from franca.evaluation.suite import measure, summarize
from franca.files import write_json
from franca.models import load_model, random_twin
from franca.params import Params
from franca.paths import MODEL, PREPARED, RESULTS
from franca.runtime import choose_device, configure_torch

OUTPUT = RESULTS / "evaluate"


def run(params: Params) -> None:
    """Write `results.json`, `outcomes.npz`, `metrics.json` and pictures to `results/evaluate`."""
    configure_torch(params.runtime)
    device, store, model = choose_device(params.runtime), Store(PREPARED), load_model(MODEL)
    comparators = {folder.name: load_model(folder) for folder in map(Path, params.evaluate.comparators)}
    side, patch = model.image_size, model.patch_size
    backbones = [
        model_backbone(OURS, model, device),
        *(model_backbone(name, comparator, device) for name, comparator in comparators.items()),
        model_backbone("random_init", random_twin(model, params.base.seed), device),
        raw_pixels(*store.channels, side, patch, device),
        color_histogram(side, patch, device),
    ]
    measured = measure(backbones, store, params)
    evidence = summarize(measured, model.digest, store, params)
    write_json(OUTPUT / "results.json", evidence.results)
    write_outcomes(OUTPUT / FILE, evidence.outcomes, model.digest)
    write_json(OUTPUT / "metrics.json", report.metrics(evidence.results))
    pictures.write(OUTPUT / "plots", evidence.results, measured.datasets[OURS], measured.segmenters, store, params)
    print(report.text(evidence.results))
