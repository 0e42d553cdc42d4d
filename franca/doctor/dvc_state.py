"""DVC's configuration by its own files: importing DVC takes a second."""

import configparser
import os
from pathlib import Path
from typing import NamedTuple

SYSTEM = Path("/etc/xdg/dvc/config")


class Remote(NamedTuple):
    """A remote: name, address, and its endpoint if it has one."""

    name: str
    url: str
    endpoint: str


def read_config(root: Path) -> configparser.ConfigParser:
    """Return DVC's configuration of a project: of system and user, of the project, and of this checkout."""
    config = configparser.ConfigParser(interpolation=None, strict=False)
    user = Path(os.environ.get("XDG_CONFIG_HOME", "~/.config")) / "dvc/config"
    places = [SYSTEM, user.expanduser(), root / ".dvc/config", root / ".dvc/config.local"]
    config.read([place for place in places if place.is_file()], encoding="utf-8")
    return config


def remotes(config: configparser.ConfigParser) -> list[Remote]:
    """Return the remotes of a configuration."""
    found = []
    for section in config.sections():
        kind, _, name = section.strip("'").partition(" ")
        if kind == "remote":
            values = config[section]
            found.append(Remote(name.strip('"'), values.get("url", ""), values.get("endpointurl", "")))
    return found


def cache_folder(root: Path, config: configparser.ConfigParser) -> Path:
    """Return the folder of DVC's cache; a relative one is relative to the folder of the file that names it."""
    return (root / ".dvc" / config.get("cache", "dir", fallback="cache")).resolve()
