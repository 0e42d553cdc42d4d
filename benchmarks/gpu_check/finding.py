"""What a check has found."""

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["pass", "FAIL", "measured", "left out"]


@dataclass(frozen=True)
class Finding:
    """One row of the table.

    Args:
        check: What was checked.
        value: What was found, with its unit.
        limit: What it must be, or empty for a measurement.
        verdict: "FAIL" makes the whole check fail.
    """

    check: str
    value: str
    limit: str = ""
    verdict: Verdict = "measured"


def at_most(check: str, value: float, limit: float) -> Finding:
    """Pass if `value` is at most `limit`; NaN fails."""
    return Finding(check, f"{value:.3g}", f"<= {limit:g}", "pass" if value <= limit else "FAIL")


def holds(check: str, condition: bool, value: str, limit: str = "") -> Finding:
    return Finding(check, value, limit, "pass" if condition else "FAIL")


def left_out(check: str, reason: str) -> Finding:
    return Finding(check, reason, "", "left out")
