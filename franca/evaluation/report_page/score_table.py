"""Tables of scores on the pages of evaluations and comparisons. Imports no torch."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from franca.benchmarks import BY_NAME
from franca.data.store.files.names import printable
from franca.evaluation.report_page.charts import Bar, Judged, bar, difference_axis, judged, score_axis
from franca.evaluation.verdicts import is_task


@dataclass(frozen=True)
class ScoreRow:
    """A model's row in the table of one benchmark.

    Attributes:
        name: Title of the model.
        color: Its color.
        ours: Whether it is the model that the others are compared with.
        score: Value, low and high.
        bar: Positions of the score.
        difference: Value, low, high and paired of the difference; None for the model `ours`.
        difference_bar: Positions of the difference.
        judged: What the difference shows.
    """

    name: str
    color: str
    ours: bool
    score: Mapping[str, Any]
    bar: Bar
    difference: Mapping[str, Any] | None = None
    difference_bar: Bar | None = None
    judged: Judged | None = None


@dataclass(frozen=True)
class ScoreTable:
    """All models on one benchmark."""

    title: str
    unit: str
    split: str
    n: int
    higher_is_better: bool
    rows: tuple[ScoreRow, ...]


@dataclass(frozen=True)
class TableModel:
    """A model of a table: its key in the rows of results, its title, its color, and whether it is `ScoreRow.ours`."""

    key: str
    title: str
    color: str
    ours: bool


def score_table(
    benchmark: str,
    split: str,
    models: Iterable[TableModel],
    scores: Mapping[str, Mapping[str, Any]],
    differences: Mapping[str, Mapping[str, Any]],
) -> ScoreTable:
    """Return the table of one benchmark; models without a score have no row.

    Args:
        benchmark: Name of the benchmark.
        split: Split of the scores.
        models: The models in the order of their rows.
        scores: Score of each model by its key.
        differences: Difference of each model by its key, if it has one.
    """
    about = BY_NAME[benchmark]
    axis, middle = score_axis(list(scores.values()), about.unit), difference_axis(list(differences.values()))
    rows = []
    for model in models:
        if model.key not in scores:
            continue
        score, difference = scores[model.key], differences.get(model.key)
        rows.append(
            ScoreRow(
                printable(model.title),
                model.color,
                model.ours,
                score,
                bar(score, *axis),
                difference,
                bar(difference, *middle) if difference else None,
                judged(difference, about.higher_is_better, is_task(benchmark)) if difference else None,
            )
        )
    return ScoreTable(about.title, about.unit, split, rows[0].score["n"], about.higher_is_better, tuple(rows))


def by_model(
    rows: Iterable[Mapping[str, Any]], key: str, benchmark: str, split: str, metric: str
) -> dict[str, Mapping[str, Any]]:
    """Return the rows of one metric by the model that `key` names."""
    wanted = (benchmark, split, metric)
    return {row[key]: row for row in rows if (row["benchmark"], row["split"], row["metric"]) == wanted}


def all_rows(rows: Sequence[Mapping[str, Any]], titles: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return rows with the titles of their models and the units of their benchmarks, for `all_scores` of a page."""
    return [
        dict(row)
        | {
            "name": printable(titles[row["model"]]),
            "unit": BY_NAME[row["benchmark"]].unit if row["benchmark"] in BY_NAME else "",
        }
        for row in rows
    ]
