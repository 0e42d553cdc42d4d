"""The report of an evaluation as one HTML file without scripts, which needs no network. Imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from franca.benchmarks import BENCHMARKS, BY_NAME, COLUMNS, OURS, RANDOM_INIT
from franca.data.store.files.names import printable
from franca.evaluation import report, verdicts
from franca.evaluation.comparison import Evidence
from franca.evaluation.pictures.style import style
from franca.evaluation.report_page.charts import Curve, Series, curve
from franca.evaluation.report_page.examples import Examples, jpeg_uri
from franca.evaluation.report_page.score_table import ScoreTable, TableModel, all_rows, by_model, score_table
from franca.files import write_bytes

FILE = "report.html"
DRAWN_HERE = frozenset({"knn"})
"""Benchmarks whose pictures the page draws itself."""
CAPTIONS = {
    "patch_maps.png": "The first three principal components of patch features as red, green and blue. Parts that look"
    " alike to the model have the same color.",
    "masks.png": "True masks, and those that a linear map predicts from patch features.",
}
MAX_CLASSES = 40
"""Classes of a confusion matrix that is shown in full."""
MAX_CONFUSIONS = 8
MAX_WIDTH = 1400
"""Width of an embedded picture in pixels, at most."""


@dataclass(frozen=True)
class Confusion:
    """The confusion matrix.

    Attributes:
        classes: Names of the classes that occur; empty if they are too many for a table.
        shares: Percent of the images of a class that are predicted as each class.
        most: The most frequent confusions: true class, predicted class, percent of the true class, images.
    """

    classes: tuple[str, ...]
    shares: tuple[tuple[float, ...], ...]
    most: tuple[tuple[str, str, float, int], ...]


def write_report(
    folder: Path, evidence: Evidence, examples: Examples | None, data: str, facts: Mapping[str, str]
) -> None:
    """Write `report.html`; the same input gives the same bytes.

    Args:
        folder: Folder of the results, with the pictures in `plots`.
        evidence: Results and outcomes.
        examples: Example images; None for none.
        data: Name of the data.
        facts: What is known about model, data and software, by name.
    """
    results = evidence.results
    content = render(
        "report.html",
        headline=verdicts.headline(results),
        verdicts=verdicts.verdicts(evidence),
        data=printable(data),
        tables=score_tables(results),
        confidence=f"{100 * results['suite']['confidence']:g} %",
        curves=curves(results),
        examples=examples,
        confusion=_confusion(examples) if examples else None,
        pictures=_pictures(folder / "plots"),
        skipped=results.get("skipped", {}),
        rows=all_rows(results["rows"], report.titles(dict(results))),
        facts=facts,
        suite=results["suite"],
    )
    write_bytes(folder / FILE, content)


def render(name: str, **values: Any) -> bytes:
    """Return a template of this package as UTF-8. All values are escaped, since names of classes can be markup."""
    environment = Environment(
        loader=PackageLoader("franca.evaluation.report_page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name).render(**values).encode()


def score_tables(results: Mapping[str, Any]) -> list[ScoreTable]:
    """Return a table for each benchmark with a main metric that was measured, with all models."""
    models = [
        TableModel(model, title, style(model)[1], model == OURS)
        for model, title in report.titles(dict(results)).items()
    ]
    tables = []
    for benchmark, metric, _ in COLUMNS:
        split = verdicts.deciding_split(results, benchmark)
        if split is None:
            continue
        scores = by_model(results["rows"], "model", benchmark, split, metric)
        if OURS not in scores:
            continue
        differences = by_model(results.get("differences", []), "against", benchmark, split, metric)
        tables.append(score_table(benchmark, split, models, scores, differences))
    return tables


def curves(results: Mapping[str, Any]) -> list[Curve]:
    """Return a curve for each benchmark that has levels: the first D dimensions, their controls, and the twin's."""
    found = []
    for name in verdicts.families(results):
        split = verdicts.deciding_split(results, f"{name}_levels")
        assert split is not None  # families are of our model's rows
        about = BY_NAME.get(name)
        parts = (
            (RANDOM_INIT, "components", "random weights, D principal components", "5 4"),
            (RANDOM_INIT, "levels", "random weights, first D", ""),
            (OURS, "random_dims", "this model, D at random", "1.5 4"),
            (OURS, "components", "this model, D principal components", "5 4"),
            (OURS, "levels", "this model, first D", ""),
        )
        series = []
        for model, part, label, dash in parts:
            rows = verdicts.by_width(results, model, f"{name}_{part}", split)
            if rows:
                series.append(Series(label, style(model)[1], rows, dash, (model, part) == (OURS, "levels")))
        found.append(curve(about.title if about else name, about.unit if about else "", split, series))
    return found


def _confusion(examples: Examples) -> Confusion | None:
    if not examples.n:
        return None
    totals = [sum(row) for row in examples.counts]
    seen = [
        index
        for index, row in enumerate(examples.counts)
        if totals[index] or any(other[index] for other in examples.counts)
    ]
    shares = tuple(tuple(100 * examples.counts[row][column] / max(totals[row], 1) for column in seen) for row in seen)
    pairs = [
        (-examples.counts[row][column], row, column)
        for row in seen
        for column in seen
        if row != column and examples.counts[row][column]
    ]
    most = tuple(
        (examples.classes[row], examples.classes[column], 100 * -count / totals[row], -count)
        for count, row, column in sorted(pairs)[:MAX_CONFUSIONS]
    )
    if len(seen) > MAX_CLASSES:
        return Confusion((), (), most)
    return Confusion(tuple(examples.classes[index] for index in seen), shares, most)


def _pictures(folder: Path) -> list[tuple[str, str]]:
    """Return data URI and caption of the benchmarks' pictures, made smaller."""
    found = []
    for benchmark in BENCHMARKS:
        for name in () if benchmark.name in DRAWN_HERE else benchmark.pictures:
            path = folder / name
            if path.suffix != ".png" or not path.is_file():
                continue
            with Image.open(path) as file:
                image = Image.new("RGB", file.size, "white")
                image.paste(file, mask=file.getchannel("A") if "A" in file.getbands() else None)
            image.thumbnail((MAX_WIDTH, 10 * MAX_WIDTH))
            found.append((jpeg_uri(image, 88), CAPTIONS.get(name, path.stem.replace("_", " "))))
    return found
