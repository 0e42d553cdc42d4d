import pytest

from franca.errors import FrancaError
from franca.params import Gate
from franca.tracking.gates import Score, judge, noise, scores, unmeasured
from tests.tracking.conftest import row

KEY = "knn/val/top1"


def score(value: float, half: float = 1.0) -> Score:
    return Score(value, value - half, value + half)


def gate(min_improvement: float = 0.0, floor: float | None = None, metric: str = KEY) -> Gate:
    return Gate(metric=metric, min_improvement=min_improvement, floor=floor)


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
def test_gate(asked: Gate, challenger: Score, champion: Score | None, holds: bool) -> None:
    (verdict,) = judge([asked], {KEY: challenger}, {KEY: champion} if champion else None)
    assert verdict.holds is holds
    assert verdict.sentence.startswith(f"{KEY} {challenger.value:.2f} {'holds' if holds else 'fails'}: ")
    assert "\n" not in verdict.sentence


def test_noise_takes_the_sides_that_face_each_other() -> None:
    assert noise(Score(72, 69, 72.5), Score(70, 69.5, 74)) == 5.0


def test_every_gate_gets_a_verdict() -> None:
    other = "linear/val/top1"
    ours, theirs = {KEY: score(75), other: score(60)}, {KEY: score(70), other: score(70)}
    verdicts = judge([gate(min_improvement=1), gate(metric=other)], ours, theirs)
    assert [verdict.holds for verdict in verdicts] == [True, False]


def test_missing_metric_names_the_known_ones() -> None:
    with pytest.raises(FrancaError, match=r"'knn/val/top5'; known: knn/val/top1, linear/val/top1"):
        judge([gate(metric="knn/val/top5")], {KEY: score(1), "linear/val/top1": score(1)}, None)
    with pytest.raises(FrancaError, match="the champion has no metric"):
        judge([gate()], {KEY: score(1)}, {"linear/val/top1": score(1)})


def test_gate_on_what_the_data_do_not_allow_fails_with_the_reason() -> None:
    gates = [gate(), gate(metric="knn_levels/val/top1_24"), gate(metric="linear/val/top1")]
    verdicts = unmeasured(gates, {"knn": "the data have no labels"})
    assert [verdict.metric for verdict in verdicts] == [KEY, "knn_levels/val/top1_24"]
    assert verdicts[0].sentence == f"{KEY} not measured: the data have no labels" and not verdicts[0].holds
    assert unmeasured([gate()], {"knn/val": "no val images for it"}) and not unmeasured([gate()], {})


def test_scores_are_our_models_on_val() -> None:
    rows = [row("franca", "knn", "val", 71), row("franca", "knn", "test", 70), row("raw_pixels", "knn", "val", 30)]
    assert scores({"rows": rows}) == {KEY: Score(71, 70, 72)}
