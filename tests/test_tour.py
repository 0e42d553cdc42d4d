"""`make tour` goes through all of its steps."""

import subprocess
import sys
from pathlib import Path

import pytest

from docs.tour.pictures import BROWSER

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.server
@pytest.mark.timeout(5400)
def test_the_tour_shows_everything(tmp_path: Path) -> None:
    folder = tmp_path / "tour"
    command = [sys.executable, "-m", "docs.tour", "--folder", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    _, shown = done.stdout.split("\nShown:\n")
    lines = [line for line in shown.splitlines() if line.startswith("- ")]
    assert len(lines) == 9
    assert "version 1, champion" in lines[1] and "version 2 is champion" in lines[3]
    assert (folder / "other/drift.html").exists()
    if BROWSER:
        assert len(list((folder / "pictures").glob("*.png"))) == 5
