"""The evaluate stage: measure a model, comparators and baselines on one data set; write results and pictures."""

from importlib.metadata import version
from pathlib import Path

from franca import __version__
from franca.benchmarks import OURS
from franca.data.store.prepared import SPLITS, Store
from franca.evaluation import report, verdicts
from franca.evaluation.extractors import baseline_extractors, model_extractor
from franca.evaluation.outcomes import FILE, write_outcomes
from franca.evaluation.report_page.examples import find_examples
from franca.evaluation.report_page.page import write_report
from franca.evaluation.suite import draw_pictures, measure, summarize
from franca.files import write_json
from franca.models import FrancaModel, load_model, weights_digest
from franca.params import Params
from franca.paths import DATASETS, MODEL, PREPARED, RESULTS
from franca.runtime import choose_device, configure_torch


def run(params: Params, dataset: str | None = None) -> None:
    """Measure `models/franca` as a stage of the pipeline.

    Args:
        params: All parameters.
        dataset: Name of a data set of evaluation, whose results go to `results/datasets/NAME`; None for the prepared
            store of the training images, whose results go to `results/evaluate`.

    Raises:
        FrancaError: There is no such data set, or it is not prepared.
    """
    evaluate(params, load_model(MODEL), dataset, RESULTS / (f"datasets/{dataset}" if dataset else "evaluate"))


def evaluate(params: Params, model: FrancaModel, dataset: str | None, output: Path) -> None:
    """Write `results.json`, `outcomes.npz`, `metrics.json`, `plots` and `report.html`; print tables.

    Args:
        params: All parameters.
        model: The model; moved to the device of `params.runtime`.
        dataset: Name of a data set of evaluation, or None for the prepared store of the training images.
        output: Folder of the results.

    Raises:
        FrancaError: There is no such data set, or it is not prepared.
    """
    if dataset is not None:
        params.dataset(dataset)
    store = Store(PREPARED) if dataset is None else Store(DATASETS / dataset, f"prepare_dataset@{dataset}")
    configure_torch(params.runtime)
    device = choose_device(params.runtime)
    comparators = {folder.name: load_model(folder) for folder in map(Path, params.evaluate.comparators)}
    extractors = [
        model_extractor(OURS, model, device),
        *(model_extractor(name, comparator, device) for name, comparator in comparators.items()),
        *baseline_extractors(model, store.channels, params.base.seed, device),
    ]
    measured = measure(extractors, store, params)
    digest = model.digest or weights_digest(model)
    evidence = summarize(measured, digest, store, params)
    write_json(output / "results.json", evidence.results)
    write_outcomes(output / FILE, evidence.outcomes, digest)
    write_json(output / "metrics.json", report.metrics(evidence.results))
    draw_pictures(output / "plots", measured, evidence.results, params)
    data = params.prepare.source if dataset is None else dataset
    examples = find_examples(measured.features[OURS], store, params)
    write_report(output, evidence, examples, data, _facts(model, digest, store))
    print("\n".join([report.text(evidence.results), "", *verdicts.text(evidence)]))


def _facts(model: FrancaModel, digest: str, store: Store) -> dict[str, str]:
    """Return what the report says about where its numbers come from."""
    counts = {split: len(store.images(split)) for split in SPLITS}
    return {
        "model": f"{digest} (SHA-256 of the weights)",
        "input": f"{model.image_size} pixels, patches of {model.patch_size}",
        "data": f"{store.digest} (SHA-256 of the manifest)",
        "images": ", ".join(f"{count:,} {split}" for split, count in counts.items()),
        "software": ", ".join(f"{name} {version(name)}" for name in ("torch", "numpy", "pillow")),
        "Franca": __version__,
    }
