"""Address and login of the Prefect server that is set, without Prefect, whose import takes seconds."""

import base64
import os
import tomllib
from pathlib import Path


def prefect_settings() -> dict[str, str]:
    """Return Prefect's settings from the environment, and below that from its active profile, by variable name."""
    home = Path(os.environ.get("PREFECT_HOME", "~/.prefect")).expanduser()
    profile: dict[str, str] = {}
    try:
        profiles = tomllib.loads((home / "profiles.toml").read_text(encoding="utf-8"))
        active = os.environ.get("PREFECT_PROFILE", profiles.get("active"))
        profile = {name: str(value) for name, value in profiles["profiles"].get(active, {}).items()}
    except (OSError, ValueError, KeyError, AttributeError):
        pass  # no profiles
    return profile | {name: value for name, value in os.environ.items() if name.startswith("PREFECT_") and value}


def api_address(settings: dict[str, str]) -> str:
    """Return the address of the server's API, which ends in /api; empty if none is set."""
    return settings.get("PREFECT_API_URL", "").rstrip("/")


def api_headers(settings: dict[str, str]) -> dict[str, str]:
    """Return the headers by which a request says who it is from."""
    if login := settings.get("PREFECT_API_AUTH_STRING"):
        return {"Authorization": f"Basic {base64.b64encode(login.encode()).decode()}"}
    if key := settings.get("PREFECT_API_KEY"):
        return {"Authorization": f"Bearer {key}"}
    return {}
