"""Screenshots of pages by a headless Chromium, if there is one."""

import shutil
import subprocess
from pathlib import Path

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def take(address: str, file: Path) -> None:
    """Write a picture of the page at an address, if there is a browser."""
    if BROWSER is None:
        return
    options = ["--headless=new", "--no-sandbox", "--hide-scrollbars", "--window-size=1400,1400"]
    command = [BROWSER, *options, "--virtual-time-budget=20000", f"--screenshot={file}", address]
    subprocess.run(command, capture_output=True, timeout=180, check=False)
