"""Memory of this process."""

from pathlib import Path


def resident(peak: bool = False) -> int:
    """Return bytes in RAM, now or at the peak; unlike getrusage, this does not count the parent's memory."""
    field = "VmHWM:" if peak else "VmRSS:"
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))
