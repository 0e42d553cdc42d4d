"""Memory of this process."""

from pathlib import Path


def resident(peak: bool = False) -> int:
    """Return bytes in RAM, now or at the peak; unlike getrusage, this does not count the parent's memory."""
    return _status("VmHWM:" if peak else "VmRSS:")


def anonymous() -> int:
    """Return bytes in RAM now, without pages of mapped files, which the kernel takes back when it needs them."""
    return _status("RssAnon:")


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))
