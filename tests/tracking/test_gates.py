from typing import Any, Literal

import numpy as np
import pytest

from franca.errors import FrancaError
from franca.evaluation.comparison import Evidence
from franca.evaluation.outcomes import Outcome
from franca.params import Gate
from franca.tracking.gates import Verdict, choose, judge
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


def one(asked: Gate, ours: Evidence, champion: Evidence | None = None) -> Verdict:
    (verdict,) = judge([asked], ours, champion, seed=0)
    return verdict


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
    verdict = one(asked, evidence(challenger), evidence(champion) if champion else None)
    assert verdict.holds is holds and verdict.worse_than is None
    assert verdict.sentence.startswith(f"{KEY} {challenger['value']:.2f} {'holds' if holds else 'fails'}: ")
    assert "\n" not in verdict.sentence


@pytest.mark.parametrize(("against", "model"), [("random", "random_init"), ("pixels", "raw_pixels")])
@pytest.mark.parametrize(("value", "half", "holds"), [(21.0, 4.0, False), (19.0, 0.1, False), (30.0, 4.0, True)])
def test_gate_against_a_baseline_needs_no_champion(
    against: Against, model: str, value: float, half: float, holds: bool
) -> None:
    verdict = one(gate(0.5, against=against), evidence(score(value, half), score(20.4, half, model)))
    assert verdict.holds is holds
    assert verdict.worse_than == (None if holds else against)
    assert ("random weights" if against == "random" else "raw pixels") in verdict.sentence


def test_a_small_but_certain_gain_fails_without_being_called_no_gain() -> None:
    verdict = one(gate(0.5, against="random"), evidence(score(20.4, 0.1), score(20, 0.1, "random_init")))
    assert not verdict.holds and verdict.worse_than is None


def test_a_champion_without_the_metric_fails_the_gate() -> None:
    levels = "knn_levels/val/top1_192"
    ours = evidence({**row("franca", "knn_levels", "val", 70.0), "metric": "top1_192"})
    verdict = one(gate(metric=levels), ours, evidence(score(70)))
    assert not verdict.holds and "the champion has no such metric" in verdict.sentence


def test_gates_without_labels_are_named_where_labels_decide() -> None:
    gates = [gate(), gate(metric="position/val/r2")]
    chosen, notes = choose(gates, {})
    assert chosen == gates[:1] and notes == ["not applied, since the images have labels: position/val/r2"]


def test_a_floor_that_is_missed_is_not_called_worse_than_the_baseline() -> None:
    ours = evidence(score(30), score(20, model="random_init"))
    verdict = one(gate(0.5, floor=50, against="random"), ours)
    assert not verdict.holds and verdict.worse_than is None


def paired(ours: int, theirs: int, both: int, n: int = 200) -> Evidence:
    """k-NN of two models on the same images, of which `ours` and `theirs` are right by one model alone."""
    index = np.arange(n)
    right = {"franca": index < both + ours, "random_init": (index < both) | (index >= n - theirs)}
    outcomes = {(model, "knn", "val", "top1"): Outcome("hits", correct, "same", n) for model, correct in right.items()}
    rows = [score(100 * float(correct.mean()), 6.8, model) for model, correct in right.items()]
    return Evidence(evidence(*rows).results, outcomes)


def test_the_same_images_are_compared_one_by_one() -> None:
    ours = paired(ours=14, theirs=2, both=100)
    verdict = one(gate(0.5, against="random"), ours)
    assert verdict.holds and "same images" in verdict.sentence
    apart = one(gate(0.5, against="random"), Evidence(ours.results))
    assert not apart.holds and "unpaired" in apart.sentence


def test_a_champion_of_other_images_or_without_them_is_compared_as_before() -> None:
    ours = paired(ours=14, theirs=2, both=100)
    champion = Evidence(evidence(score(51, 6.8)).results)
    assert "unpaired" in one(gate(), ours, champion).sentence
    outcome = Outcome("hits", np.arange(200) < 102, "others", 200)
    others = Evidence(champion.results, {("franca", "knn", "val", "top1"): outcome})
    assert one(gate(), ours, others) == one(gate(), ours, champion)
    same = Evidence(champion.results, {("franca", "knn", "val", "top1"): outcome._replace(images="same")})
    assert "same images" in one(gate(), ours, same).sentence


def test_less_position_is_better() -> None:
    metric = "position/val/r2"
    rows = [
        {**row(model, "position", "val", value), "metric": "r2"}
        for model, value in (("franca", 3.0), ("random_init", 60.0))
    ]
    assert one(gate(0.5, metric=metric, against="random"), evidence(*rows)).holds
    assert one(gate(floor=5, metric=metric), evidence(*rows)).holds
    assert not one(gate(floor=1, metric=metric), evidence(*rows)).holds
    rows[0]["value"], rows[1]["value"] = 60.0, 3.0
    rows[0] |= {"low": 59.0, "high": 61.0}
    rows[1] |= {"low": 2.0, "high": 4.0}
    verdict = one(gate(metric=metric, against="random"), evidence(*rows))
    assert verdict.worse_than == "random" and "less is better" in verdict.sentence


def test_every_gate_gets_a_verdict() -> None:
    ours = evidence(score(75), row("franca", "linear", "val", 60))
    theirs = evidence(score(70), row("franca", "linear", "val", 70))
    verdicts = judge([gate(min_improvement=1), gate(metric="linear/val/top1")], ours, theirs, seed=0)
    assert [verdict.holds for verdict in verdicts] == [True, False]


def test_missing_metric_names_the_known_ones() -> None:
    ours = evidence(score(1), row("franca", "linear", "val", 1))
    with pytest.raises(FrancaError, match=r"'segmentation/val/miou'; known: knn/val/top1, linear/val/top1"):
        one(gate(metric="segmentation/val/miou"), ours)
    with pytest.raises(FrancaError, match="knn/val/top1 of raw pixels was not measured"):
        one(gate(against="pixels"), ours)


def test_gate_on_what_the_data_do_not_allow_fails_with_the_reason() -> None:
    gates = [gate(), gate(metric="knn_levels/val/top1_24"), gate(metric="segmentation/val/miou")]
    skipped = {"knn": "the train images have no labels", "segmentation/val": "no val images for it"}
    verdicts = judge(gates, evidence(skipped=skipped), None, seed=0)
    assert [verdict.metric for verdict in verdicts] == [asked.metric for asked in gates]
    assert verdicts[0].sentence == f"{KEY} not measured: the train images have no labels"
    assert not any(verdict.holds or verdict.worse_than for verdict in verdicts)


def test_gates_without_labels_decide_where_there_are_none() -> None:
    labeled, dense = [gate(), gate(metric="linear/val/top1")], gate(metric="segmentation/val/miou")
    free = [gate(metric="rank/val/rankme"), gate(metric="position/val/r2")]
    gates = [*labeled, *free, dense]
    for skipped in ({}, {"knn/test": "no test images for it"}, {"linear": "the val images have no labels"}):
        assert choose(gates, skipped)[0] == [*labeled, dense]
    chosen, (note,) = choose(gates, NO_LABELS)
    assert chosen == [*free, dense]
    assert note == (
        "gates that need no labels decide; knn/val/top1, linear/val/top1 not measured: the train images have no labels"
    )
    single = dict.fromkeys(("knn/val", "linear"), "the val images have a single class")
    assert choose(gates, single)[0] == [*free, dense]


def test_a_list_of_one_kind_always_applies() -> None:
    free = [gate(metric="rank/val/rankme"), gate(metric="segmentation/val/miou")]
    assert choose(free, {}) == choose(free, NO_LABELS) == (free, [])
    labeled = [gate()]
    assert choose(labeled, NO_LABELS) == (labeled, [])
