"""Results of checks."""

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["pass", "FAIL", "measured", "left out"]


@dataclass(frozen=True)
class Finding:
    """One row of the table.

    Args:
        check: What was checked.
        value: The result, with its unit.
        limit: The expected result, or empty for a measurement.
        verdict: "FAIL" makes the command fail.
    """

    check: str
    value: str
    limit: str = ""
    verdict: Verdict = "measured"


def at_most(check: str, value: float, limit: float) -> Finding:
    """Return a finding that passes if `value` is at most `limit`; NaN fails."""
    return Finding(check, f"{value:.3g}", f"<= {limit:g}", "pass" if value <= limit else "FAIL")


def holds(check: str, condition: bool, value: str, limit: str = "") -> Finding:
    """Return a finding that passes if `condition` is true."""
    return Finding(check, value, limit, "pass" if condition else "FAIL")


def left_out(check: str, reason: str) -> Finding:
    """Return a finding for a check that was not run."""
    return Finding(check, reason, "", "left out")
