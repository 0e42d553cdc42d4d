"""The last decision of the gates in the description of a version: the section at its end."""

import hashlib
from collections.abc import Mapping

HEADING = "## Decision of the gates"
MAX_DESCRIPTION = 5000
"""Longest description that MLflow's database stores, in characters."""
DECISION = "franca.decision"
"""Tag of a version: the sentences of the last decision about it. The history has all."""
WRITTEN = "franca.card"
"""Tag of a version: digest of the description as Franca wrote it, so that it does not replace a person's."""


def with_decision(description: str, sentences: list[str]) -> str:
    """Return a card with its last section replaced by a decision; if it is no card, the decision alone."""
    card, found, _ = description.rpartition(HEADING)
    lines = "\n".join(f"- {sentence}" for sentence in sentences) if found else "\n".join(sentences)
    return (f"{card}{HEADING}\n\n{lines}" if found else lines)[:MAX_DESCRIPTION]


def is_ours(description: str, tags: Mapping[str, str]) -> bool:
    """Return whether Franca wrote the description of a version with these tags, or there is none."""
    # Before there were cards, the description was the decision.
    old = tags.get(DECISION, "")[:MAX_DESCRIPTION]
    return description in ("", old) or tags.get(WRITTEN) == description_digest(description)


def description_digest(text: str) -> str:
    """Return the digest of a description for the tag `WRITTEN`."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
