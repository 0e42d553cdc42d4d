"""The result of a drift check as JSON and in sentences."""

from typing import Any

from franca.drift.measures import NOVEL_SHARE, TESTS, Comparison


def as_json(found: Comparison, facts: dict[str, Any]) -> dict[str, Any]:
    """Return the result as the object that `--json` prints and `drift.json` holds.

    Args:
        found: The tests.
        facts: What was compared.
    """
    return {
        "drift": found.drifted,
        "alpha": found.alpha,
        "mmd": {"value": found.mmd.value, "chance": found.mmd.chance, "p": found.mmd.p},
        "domain_classifier": {
            "accuracy": found.classifier.accuracy,
            "interval": [found.classifier.low, found.classifier.high],
            "p": found.classifier.p,
        },
        "out_of_distribution": {
            "share": found.novelty.share,
            "expected": NOVEL_SHARE,
            "threshold": found.novelty.threshold,
            "p": found.novelty.p,
        },
        **facts,
    }


def headline(result: dict[str, Any]) -> str:
    """Return the outcome in a sentence."""
    if not result["drift"]:
        return "No drift: the new images look like the training images"
    return "Drift: the new images differ from the training images"


def sentences(result: dict[str, Any]) -> list[tuple[str, bool, str]]:
    """Return a name, whether it says drift, and a sentence for each test."""
    limit = result["alpha"] / TESTS
    mmd, domain, novel = (result[name] for name in ("mmd", "domain_classifier", "out_of_distribution"))
    low, high = (100 * end for end in domain["interval"])
    return [
        (
            "Distribution (MMD)",
            mmd["p"] <= limit,
            f"squared distance {mmd['value']:.4f}, {mmd['chance']:.4f} by chance ({_p(mmd)})",
        ),
        (
            "Domain classifier",
            domain["p"] <= limit,
            f"tells new from training images in {100 * domain['accuracy']:.1f} % of the cases "
            f"[{low:.1f}, {high:.1f}], 50 % by chance ({_p(domain)})",
        ),
        (
            "Out of distribution",
            novel["p"] <= limit,
            f"{100 * novel['share']:.1f} % of the new images are farther from the training images than "
            f"{100 * (1 - novel['expected']):.0f} % of those are from each other ({_p(novel)})",
        ),
    ]


def _p(test: dict[str, Any]) -> str:
    return f"p = {test['p']:.3g}" if test["p"] >= 1e-4 else "p < 0.0001"
