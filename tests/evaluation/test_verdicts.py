from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from franca.evaluation.comparison import Evidence
from franca.evaluation.outcomes import Outcome
from franca.evaluation.verdicts import headline, text, verdicts

TWIN, PIXELS, HISTOGRAM = "random_init", "raw_pixels", "color_histogram"
METRICS = {"knn": "top1", "linear": "top1", "segmentation": "miou", "position": "r2", "views": "top1"}
Interval = tuple[float, float, float]


def row(model: str, benchmark: str, metric: str, value: float, split: str = "test") -> dict[str, Any]:
    about = {"model": model, "benchmark": benchmark, "split": split, "metric": metric}
    return about | {"value": value, "low": value - 1, "high": value + 1, "n": 400}


def planted(
    differences: Mapping[tuple[str, str], Interval],
    *,
    split: str = "test",
    rows: Sequence[dict[str, Any]] = (),
    outcomes: Mapping[Any, Outcome] | None = None,
) -> Evidence:
    """Results with these differences to other models, by benchmark and model."""
    found = [*rows]
    found += [
        row("franca", name, METRICS[name], 50.0, split) for name in dict.fromkeys(name for name, _ in differences)
    ]
    found += [row(model, name, METRICS[name], 50.0, split) for name, model in differences]
    told = [
        {"against": model, "benchmark": name, "split": split, "metric": METRICS[name]}
        | dict(zip(("value", "low", "high"), interval, strict=True))
        | {"paired": True}
        for (name, model), interval in differences.items()
    ]
    suite = {"bootstrap_samples": 200, "confidence": 0.95}
    return Evidence({"rows": found, "differences": told, "suite": suite}, outcomes or {})


def all_better(name: str) -> dict[tuple[str, str], Interval]:
    return {(name, model): (10.0 + index, 8.0, 12.0) for index, model in enumerate((HISTOGRAM, TWIN, PIXELS))}


def sentences(evidence: Evidence, subject: str) -> tuple[str, ...]:
    return next(verdict.sentences for verdict in verdicts(evidence) if verdict.subject == subject)


def outcome(evidence: Evidence, subject: str) -> str:
    return next(verdict.outcome for verdict in verdicts(evidence) if verdict.subject == subject)


def test_better_than_every_baseline() -> None:
    evidence = planted(all_better("knn") | all_better("linear"))
    assert (
        headline(evidence.results)
        == "Better than every baseline at everything that was measured: k-NN and linear probe."
    )
    assert outcome(evidence, "global features") == "good"
    assert sentences(evidence, "global features")[0] == (
        "k-NN: better than every baseline; the closest is the color histogram (+10.0 points [+8.0, +12.0])."
    )


def test_a_color_histogram_is_better() -> None:
    evidence = planted(all_better("linear") | all_better("knn") | {("knn", HISTOGRAM): (-1.4, -2.5, -0.2)})
    assert headline(evidence.results) == "Better than every baseline at linear probe, but not at k-NN."
    assert outcome(evidence, "global features") == "mixed"
    assert sentences(evidence, "global features")[0] == (
        "k-NN: worse than the color histogram (-1.4 points [-2.5, -0.2]); better than the same ViT with random weights"
        " and raw pixels."
    )


def test_an_interval_around_zero_is_no_difference() -> None:
    evidence = planted({("knn", TWIN): (3.0, 0.5, 5.0), ("knn", PIXELS): (2.0, -0.1, 4.0)})
    assert headline(evidence.results) == (
        "Better than the same ViT with random weights, but not than every baseline at k-NN."
    )
    assert sentences(evidence, "global features") == (
        "k-NN: not shown to differ from raw pixels (+2.0 points [-0.1, +4.0]); better than the same ViT with random"
        " weights.",
    )


def test_a_model_that_has_learned_nothing() -> None:
    evidence = planted({("knn", TWIN): (0.1, -1.0, 1.0), ("knn", PIXELS): (9.0, 8.0, 10.0)})
    assert headline(evidence.results).startswith(
        "Not shown to have learned anything: not better than the same ViT with random weights at k-NN."
    )
    assert "training has not helped here" in sentences(evidence, "global features")[-1]
    assert "too few steps" in sentences(evidence, "what to check")[0]


def test_dense_features_are_judged_on_their_own() -> None:
    evidence = planted(all_better("knn") | {("segmentation", TWIN): (-9.0, -12.0, -6.0)})
    assert (outcome(evidence, "global features"), outcome(evidence, "dense features")) == ("good", "bad")
    assert sentences(evidence, "dense features") == (
        "segmentation mIoU: worse than the same ViT with random weights (-9.0 points [-12.0, -6.0]).",
        "Nowhere better than the same ViT with random weights, so training has not helped here.",
    )
    assert all(verdict.subject != "what to check" for verdict in verdicts(evidence))


def test_images_without_labels_are_judged_by_their_views() -> None:
    evidence = planted(all_better("views"))
    assert headline(evidence.results).endswith("measured: view agreement.")
    assert [verdict.subject for verdict in verdicts(evidence)] == ["views without labels"]


@pytest.mark.parametrize(
    ("value", "word", "judged"), [(0.9, "hardly", "good"), (12.0, "partly", "mixed"), (60.0, "largely", "bad")]
)
def test_position(value: float, word: str, judged: str) -> None:
    evidence = planted({("position", TWIN): (-50.0, -51.0, -49.0), ("position", PIXELS): (0.8, 0.5, 0.9)})
    for found in evidence.results["rows"]:
        found["value"] = value
    assert outcome(evidence, "position") == judged
    first, second = sentences(evidence, "position")
    assert first == f"A patch's place can {word} be read from its feature (R2 {value} %; less is better)."
    assert second == "position R2: better than the same ViT with random weights (+50.0 points [+49.0, +51.0])."
    assert headline(evidence.results).startswith("There is nothing to judge this model by")


def levels(gained: bool) -> tuple[list[dict[str, Any]], dict[Any, Outcome]]:
    """k-NN on 8 and 16 of 16 dimensions: with a gain, the first 8 are right on more images than the components."""
    hits = {"knn_levels": np.arange(400) < (300 if gained else 200), "knn_components": np.arange(400) < 250}
    rows, outcomes = [], {}
    for benchmark, values in hits.items():
        for width in (8, 16):
            metric = f"top1_{width}"
            rows.append(row("franca", benchmark, metric, 100 * float(values.mean())))
            outcomes["franca", benchmark, "test", metric] = Outcome("hits", values, "images", 400)
    return rows, outcomes


def test_nested_widths_that_beat_principal_components() -> None:
    rows, outcomes = levels(gained=True)
    evidence = planted(all_better("knn"), rows=rows, outcomes=outcomes)
    assert outcome(evidence, "nested widths (k-NN)") == "good"
    assert sentences(evidence, "nested widths (k-NN)") == (
        "The first 8 of 16 dimensions score 75.0 instead of 75.0, 100 % of it.",
        "The first D are better than D principal components at every width (1).",
    )


def test_nested_widths_that_gain_nothing() -> None:
    rows, outcomes = levels(gained=False)
    evidence = planted(all_better("knn"), rows=rows, outcomes=outcomes)
    assert outcome(evidence, "nested widths (k-NN)") == "bad"
    assert sentences(evidence, "nested widths (k-NN)")[1:] == (
        "Of 1 widths, the first D are worse at 1 compared with D principal components.",
        "Nesting is not shown to gain anything here; principal components can be cut instead.",
    )


def test_levels_are_paired_if_there_are_outcomes() -> None:
    rows, outcomes = levels(gained=True)
    for found in rows:
        found["low"], found["high"] = found["value"] - 20, found["value"] + 20
    assert outcome(planted(all_better("knn"), rows=rows, outcomes=outcomes), "nested widths (k-NN)") == "good"
    assert outcome(planted(all_better("knn"), rows=rows), "nested widths (k-NN)") == "bad"


def test_val_decides_without_test_images() -> None:
    assert headline(planted(all_better("knn"), split="val").results).startswith("Better than every baseline")


def test_comparators_are_no_baselines() -> None:
    better = all_better("knn") | {("knn", "dinov2"): (-7.0, -9.0, -5.0), ("segmentation", "dinov2"): (1.0, -1.0, 3.0)}
    evidence = planted(better)
    assert headline(evidence.results) == "Better than every baseline at everything that was measured: k-NN."
    assert sentences(evidence, "against dinov2") == (
        "This model is worse at k-NN; not shown to differ at segmentation mIoU.",
    )


def test_nothing_to_compare_with() -> None:
    evidence = planted({})
    assert verdicts(evidence) == []
    assert text(evidence) == [
        "Verdict: There is nothing to judge this model by: no benchmark measured it next to a baseline."
    ]
