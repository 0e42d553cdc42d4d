from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest

from franca.errors import FrancaError
from franca.evaluation.comparison import Evidence
from franca.evaluation.outcomes import Outcome
from franca.params import Gate, parse_params
from franca.tracking.gates import GateResult, check_gates, known_metrics, select_gates
from tests.tracking.conftest import row

KEY = "knn/val/top1"
Against = Literal["champion", "random", "pixels"]
NO_LABELS = {"knn": "the train images have no labels", "linear": "the train images have no labels"}


def gate(
    min_improvement: float = 0.0, floor: float | None = None, metric: str = KEY, against: Against = "champion"
) -> Gate:
    return Gate(metric=metric, against=against, min_improvement=min_improvement, floor=floor)


def evidence(*rows: dict[str, Any], **more: Any) -> Evidence:
    suite = {"bootstrap_samples": 1000, "confidence": 0.95}
    return Evidence({"suite": suite, "skipped": {}, "rows": list(rows), **more})


def score(value: float, half: float = 1.0, model: str = "franca") -> dict[str, Any]:
    return row(model, "knn", "val", value, half)


def one(asked: Gate, ours: Evidence, champion: Evidence | None = None) -> GateResult:
    (result,) = check_gates([asked], ours, champion, seed=0)
    return result


@pytest.mark.parametrize(
    ("asked", "challenger", "champion", "holds"),
    [
        # No champion: only the floor counts.
        (gate(), score(1), None, True),
        (gate(min_improvement=5), score(1), None, True),
        (gate(floor=50), score(50), None, True),
        (gate(floor=50), score(49.9), None, False),
        # Better by a margin: the margin and chance (here sqrt(2), or 0.14 with narrow intervals) must both be passed.
        (gate(min_improvement=0.5), score(72), score(70), True),
        (gate(min_improvement=0.5), score(71), score(70), False),
        (gate(min_improvement=0.5), score(70.4, 0.1), score(70, 0.1), False),
        (gate(min_improvement=0.5), score(70.6, 0.1), score(70, 0.1), True),
        (gate(min_improvement=3.0), score(72), score(70), False),
        (gate(min_improvement=0.5), score(60), score(70), False),
        # Not worse: a loss within chance is none.
        (gate(), score(70), score(70), True),
        (gate(), score(68.7), score(70), True),
        (gate(), score(68.5), score(70), False),
        (gate(), score(69.8, 0.1), score(70, 0.1), False),
        (gate(), score(90), score(70), True),
        # The floor counts beside a champion, too.
        (gate(floor=75), score(74), score(60), False),
        (gate(min_improvement=1, floor=75), score(76), score(60), True),
        (gate(min_improvement=1, floor=75), score(74), score(60), False),
    ],
)
def test_gate_against_a_champion(
    asked: Gate, challenger: dict[str, Any], champion: dict[str, Any] | None, holds: bool
) -> None:
    result = one(asked, evidence(challenger), evidence(champion) if champion else None)
    assert result.passed is holds and result.worse_than is None
    assert result.sentence.startswith(f"{KEY} {challenger['value']:.2f} {'holds' if holds else 'fails'}: ")
    assert "\n" not in result.sentence


@pytest.mark.parametrize(("against", "model"), [("random", "random_init"), ("pixels", "raw_pixels")])
@pytest.mark.parametrize(("value", "half", "holds"), [(21.0, 4.0, False), (19.0, 0.1, False), (30.0, 4.0, True)])
def test_gate_against_a_baseline_needs_no_champion(
    against: Against, model: str, value: float, half: float, holds: bool
) -> None:
    result = one(gate(0.5, against=against), evidence(score(value, half), score(20.4, half, model)))
    assert result.passed is holds
    assert result.worse_than == (None if holds else against)
    assert ("random weights" if against == "random" else "raw pixels") in result.sentence


def test_a_significant_gain_below_the_minimum_fails_but_is_not_worse_than_the_baseline() -> None:
    result = one(gate(0.5, against="random"), evidence(score(20.4, 0.1), score(20, 0.1, "random_init")))
    assert not result.passed and result.worse_than is None


def test_a_champion_without_the_metric_fails_the_gate() -> None:
    levels = "knn_levels/val/top1_192"
    ours = evidence({**row("franca", "knn_levels", "val", 70.0), "metric": "top1_192"})
    result = one(gate(metric=levels), ours, evidence(score(70)))
    assert not result.passed and "the champion has no such metric" in result.sentence


def test_label_free_gates_that_do_not_apply_are_named() -> None:
    gates = [gate(), gate(metric="position/val/r2")]
    chosen, notes = select_gates(gates, Evidence({"rows": []}))
    assert chosen == gates[:1] and notes == ["not applied, since the images have labels: position/val/r2"]


def test_a_missed_floor_is_not_worse_than_the_baseline() -> None:
    ours = evidence(score(30), score(20, model="random_init"))
    result = one(gate(0.5, floor=50, against="random"), ours)
    assert not result.passed and result.worse_than is None


def paired(ours: int, theirs: int, both: int, n: int = 200) -> Evidence:
    """Return k-NN results of two models; `ours` and `theirs` images are correct for one model only."""
    index = np.arange(n)
    right = {"franca": index < both + ours, "random_init": (index < both) | (index >= n - theirs)}
    outcomes = {(model, "knn", "val", "top1"): Outcome("hits", correct, "same", n) for model, correct in right.items()}
    rows = [score(100 * float(correct.mean()), 6.8, model) for model, correct in right.items()]
    return Evidence(evidence(*rows).results, outcomes)


def test_results_on_the_same_images_are_paired() -> None:
    ours = paired(ours=14, theirs=2, both=100)
    result = one(gate(0.5, against="random"), ours)
    assert result.passed and "same images" in result.sentence
    apart = one(gate(0.5, against="random"), Evidence(ours.results))
    assert not apart.passed and "unpaired" in apart.sentence


def test_a_champion_measured_on_other_images_is_compared_unpaired() -> None:
    ours = paired(ours=14, theirs=2, both=100)
    champion = Evidence(evidence(score(51, 6.8)).results)
    assert "unpaired" in one(gate(), ours, champion).sentence
    outcome = Outcome("hits", np.arange(200) < 102, "others", 200)
    others = Evidence(champion.results, {("franca", "knn", "val", "top1"): outcome})
    assert one(gate(), ours, others) == one(gate(), ours, champion)
    same = Evidence(champion.results, {("franca", "knn", "val", "top1"): outcome._replace(images="same")})
    assert "same images" in one(gate(), ours, same).sentence


def test_lower_position_is_better() -> None:
    metric = "position/val/r2"
    rows = [
        {**row(model, "position", "val", value), "metric": "r2"}
        for model, value in (("franca", 3.0), ("random_init", 60.0))
    ]
    assert one(gate(0.5, metric=metric, against="random"), evidence(*rows)).passed
    assert one(gate(floor=5, metric=metric), evidence(*rows)).passed
    assert not one(gate(floor=1, metric=metric), evidence(*rows)).passed
    rows[0]["value"], rows[1]["value"] = 60.0, 3.0
    rows[0] |= {"low": 59.0, "high": 61.0}
    rows[1] |= {"low": 2.0, "high": 4.0}
    result = one(gate(metric=metric, against="random"), evidence(*rows))
    assert result.worse_than == "random" and "less is better" in result.sentence


def test_every_gate_has_a_result() -> None:
    ours = evidence(score(75), row("franca", "linear", "val", 60))
    theirs = evidence(score(70), row("franca", "linear", "val", 70))
    results = check_gates([gate(min_improvement=1), gate(metric="linear/val/top1")], ours, theirs, seed=0)
    assert [result.passed for result in results] == [True, False]


def test_missing_metric_names_the_known_ones() -> None:
    ours = evidence(score(1), row("franca", "linear", "val", 1))
    with pytest.raises(FrancaError, match=r"'segmentation/val/miou'; known: knn/val/top1, linear/val/top1"):
        one(gate(metric="segmentation/val/miou"), ours)
    with pytest.raises(FrancaError, match="knn/val/top1 of raw pixels was not measured"):
        one(gate(against="pixels"), ours)


def test_gate_on_a_skipped_metric_fails_with_the_reason() -> None:
    gates = [gate(), gate(metric="knn_levels/val/top1_24"), gate(metric="segmentation/val/miou")]
    skipped = {"knn": "the train images have no labels", "segmentation/val": "no val images for it"}
    results = check_gates(gates, evidence(skipped=skipped), None, seed=0)
    assert [result.metric for result in results] == [asked.metric for asked in gates]
    assert results[0].sentence == f"{KEY} not measured: the train images have no labels"
    assert not any(result.passed or result.worse_than for result in results)


def test_label_free_gates_apply_if_there_are_no_labels() -> None:
    labeled, dense = [gate(), gate(metric="linear/val/top1")], gate(metric="segmentation/val/miou")
    free = [gate(metric="rank/val/rankme"), gate(metric="position/val/r2")]
    gates = [*labeled, *free, dense]
    for skipped in ({}, {"knn/test": "no test images for it"}, {"linear": "the val images have no labels"}):
        assert select_gates(gates, evidence(skipped=skipped))[0] == [*labeled, dense]
    chosen, (note,) = select_gates(gates, evidence(skipped=NO_LABELS))
    assert chosen == [*free, dense]
    assert note == (
        "gates that need no labels decide; knn/val/top1, linear/val/top1 not measured: the train images have no labels"
    )
    single = dict.fromkeys(("knn/val", "linear"), "the val images have a single class")
    assert select_gates(gates, evidence(skipped=single))[0] == [*free, dense]


def test_gates_of_one_kind_always_apply() -> None:
    free = [gate(metric="rank/val/rankme"), gate(metric="segmentation/val/miou")]
    nothing, no_labels = evidence(), evidence(skipped=NO_LABELS)
    assert select_gates(free, nothing) == select_gates(free, no_labels) == (free, [])
    labeled = [gate()]
    assert select_gates(labeled, no_labels) == (labeled, [])


def test_gates_on_a_further_data_set() -> None:
    asked = gate(metric="birds/knn/val/top1", min_improvement=0.5)
    assert (asked.dataset, asked.key) == ("birds", ("knn", "val", "top1"))
    ours = replace(evidence(score(10)), datasets={"birds": evidence(score(70, 0.2))})
    theirs = replace(evidence(score(90)), datasets={"birds": evidence(score(60, 0.2))})
    result = one(asked, ours, theirs)
    assert (
        result.passed
        and result.metric == "birds/knn/val/top1"
        and "10.00 above the champion's 60.00" in result.sentence
    )
    assert not one(asked, theirs, ours).passed
    assert known_metrics(ours) == ["birds/knn/val/top1", "knn/val/top1"]
    assert "the champion has no such metric" in one(asked, ours, evidence(score(60))).sentence
    assert "not measured: no results on the data set birds" in one(asked, evidence(score(60)), theirs).sentence


def test_a_further_data_set_decides_if_the_training_source_has_no_labels() -> None:
    labeled, free, far = gate(), gate(metric="views/val/top1"), gate(metric="birds/knn/val/top1")
    bare = replace(evidence(skipped=NO_LABELS), datasets={"birds": evidence(score(70))})
    chosen, (note,) = select_gates([labeled, far], bare)
    assert chosen == [far] and note.startswith("the gates on further data sets decide; knn/val/top1 not measured")
    chosen, (note,) = select_gates([labeled, free, far], bare)
    assert chosen == [free, far] and note.startswith("gates that need no labels decide")
    whole = replace(evidence(score(70)), datasets={"birds": evidence(score(70))})
    assert select_gates([labeled, far], whole) == ([labeled, far], [])


def test_a_gate_needs_its_data_set_in_the_parameters(tiny_values: Callable[..., dict[str, Any]]) -> None:
    gates = [gate(metric="birds/knn/val/top1").model_dump()]
    with pytest.raises(FrancaError, match=r"birds/knn/val/top1 needs the data set birds \(known: none\)"):
        parse_params(tiny_values({"register.gates": gates}), "params.yaml")
    birds = {"birds": {"path": "data/birds", "task": "classification"}}
    assert parse_params(tiny_values({"register.gates": gates, "datasets": birds}), "params.yaml")
    wrong = [gates[0] | {"metric": "birds/knn/test/top1"}]
    with pytest.raises(FrancaError, match="is of the test split"):
        parse_params(tiny_values({"register.gates": wrong, "datasets": birds}), "params.yaml")
