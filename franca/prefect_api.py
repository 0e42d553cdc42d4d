"""Address and login of the Prefect server that is set, without Prefect, whose import takes seconds."""

import base64
import os
import re
import tomllib
from pathlib import Path
from urllib.parse import unquote

_ADDRESS = re.compile(r"(?P<scheme>\w+://)(?:(?P<login>.*)@)?(?P<place>.*)")


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
    # An empty variable overrides the profile, too.
    return profile | {name: value for name, value in os.environ.items() if name.startswith("PREFECT_")}


def api_address(settings: dict[str, str]) -> str:
    """Return the address of the server's API, without user and password; empty if none is set."""
    found = _ADDRESS.fullmatch(settings.get("PREFECT_API_URL", "").strip().rstrip("/"))
    return f"{found['scheme']}{found['place']}" if found else ""


def api_headers(settings: dict[str, str]) -> dict[str, str]:
    """Return the headers by which a request says who it is from."""
    found = _ADDRESS.fullmatch(settings.get("PREFECT_API_URL", "").strip())
    login = settings.get("PREFECT_API_AUTH_STRING") or (unquote(found["login"] or "") if found else "")
    if login:
        return {"Authorization": f"Basic {base64.b64encode(login.encode()).decode()}"}
    if key := settings.get("PREFECT_API_KEY"):
        return {"Authorization": f"Bearer {key}"}
    return {}
