"""The evaluate stage: measure `models/franca`, comparators and baselines; write `results/evaluate`."""

from pathlib import Path

from franca.benchmarks import OURS, RANDOM_INIT
from franca.data.store.prepared import Store
from franca.evaluation import report
from franca.evaluation.extractors import color_histogram, model_extractor, raw_pixels
from franca.evaluation.outcomes import FILE, write_outcomes
from franca.evaluation.suite import draw_pictures, measure, summarize
from franca.files import write_json
from franca.models import load_model, random_twin
from franca.params import Params
from franca.paths import MODEL, PREPARED, RESULTS
from franca.runtime import choose_device, configure_torch

OUTPUT = RESULTS / "evaluate"


def run(params: Params) -> None:
    """Write `results.json`, `outcomes.npz`, `metrics.json` and `plots` to `results/evaluate`."""
    configure_torch(params.runtime)
    device, store, model = choose_device(params.runtime), Store(PREPARED), load_model(MODEL)
    comparators = {folder.name: load_model(folder) for folder in map(Path, params.evaluate.comparators)}
    side, patch = model.image_size, model.patch_size
    extractors = [
        model_extractor(OURS, model, device),
        *(model_extractor(name, comparator, device) for name, comparator in comparators.items()),
        model_extractor(RANDOM_INIT, random_twin(model, params.base.seed), device),
        raw_pixels(*store.channels, side, patch, device),
        color_histogram(side, patch, device),
    ]
    measured = measure(extractors, store, params)
    evidence = summarize(measured, model.digest, store, params)
    write_json(OUTPUT / "results.json", evidence.results)
    write_outcomes(OUTPUT / FILE, evidence.outcomes, model.digest)
    write_json(OUTPUT / "metrics.json", report.metrics(evidence.results))
    draw_pictures(OUTPUT / "plots", measured, evidence.results, params)
    print(report.text(evidence.results))
