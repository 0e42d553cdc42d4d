"""Whether this machine's clock agrees with a server's."""

from franca.doctor.finding import Finding, ok, problem, warning

WARNING_SECONDS = 5.0
PROBLEM_SECONDS = 60.0


def compare_clocks(server: str, ahead: float | None) -> Finding:
    """Return a finding about the clocks of this machine and a server.

    Args:
        server: Name of the server.
        ahead: Seconds by which its clock is ahead; None if unknown.
    """
    check = f"clock ({server})"
    if ahead is None:
        return ok(check, "the server does not say its time; not compared")
    if abs(ahead) < WARNING_SECONDS:
        return ok(check, f"agrees with this machine's within {WARNING_SECONDS:g} s")
    text = f"{abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} this machine's"
    fix = "`timedatectl set-ntp true` on the machine whose clock is wrong"
    kind = problem if abs(ahead) >= PROBLEM_SECONDS else warning
    return kind(check, f"{text}; schedules, leases and S3 signatures depend on it", fix)
