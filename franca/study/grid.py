"""A study file: parameters x seeds, expanded to the cells that have to run."""

import copy
import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from franca import presets
from franca.errors import FrancaError
from franca.params import Params, fault_lines, parse_params, read_yaml
from franca.paths import PARAMS

_VARIABLE = re.compile(r"\$\{(\w+)\}")
_SEED = "base.seed"
_EXPERIMENT = "register.experiment"
# What cannot change a result is no part of a cell's identity.
_KEPT_RUNTIME = ("runtime.threads", "runtime.device")

Values = dict[str, Any]
"""Parameters by dotted key."""


class Study(BaseModel):
    """The content of a study file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="The file's name without its ending; names results and pages.")
    title: str = Field(min_length=1, description="The question, one line.")
    description: str = Field(description="What the study varies and what it cannot show, as Markdown.")
    start: str = Field(description="Preset whose values every cell starts from, or params.yaml.")
    params: Values = Field(default_factory=dict, description="Values that all cells share, over those of `start`.")
    axes: dict[str, dict[str, Values]] = Field(
        min_length=1, description="By axis, its options; by option, its values. Cells are all combinations."
    )
    compare: str = Field(description="The axis whose options are compared with each other.")
    reference: str = Field(description="The option of that axis from which the others' differences are taken.")
    seeds: list[int] = Field(description="Values of base.seed; each combination runs once with each.")


class Cell(NamedTuple):
    """One run of a study."""

    options: dict[str, str]
    """option by axis"""
    seed: int
    params_digest: str
    """of what the study file says about it; the same wherever the data lie"""
    data_digest: str
    """of the data it names; empty if variables were not given"""
    params: Params | None
    """None if variables were not given"""

    def name(self, study: str) -> str:
        """Return the name of its DVC experiment: what it is, and a digest of its content."""
        digest = hashlib.sha256(f"{self.params_digest} {self.data_digest}".encode()).hexdigest()[:8]
        words = "-".join([study, *self.options.values(), f"seed{self.seed}"])
        return re.sub(r"[^A-Za-z0-9]+", "-", f"{words}-{digest}")


def read_study(path: Path) -> Study:
    """Read and check a study file.

    Raises:
        FrancaError: with one line for each fault.
    """
    if not path.is_file():
        raise FrancaError(f"{path}: no such file; give a study file, for example studies/heads.yaml")
    tree = read_yaml(path)
    known = sorted(set(Study.model_fields) - {"name"})
    if not isinstance(tree, dict):
        raise FrancaError(f"{path}: not a mapping; a study file has the keys {', '.join(known)}")
    if unknown := [str(key) for key in tree if key not in known]:
        raise FrancaError(f"{path}: unknown key {unknown[0]}; known here: {', '.join(known)}")
    if not tree.get("seeds"):
        raise FrancaError(f"{path}: seeds: none given; name at least one, as in seeds: [0, 1, 2]")
    try:
        study = Study.model_validate({"name": path.stem, **tree})
    except ValidationError as error:
        raise FrancaError("\n".join(f"{path}: {line}" for line in fault_lines(error, Study))) from None
    for fault in _faults(study):
        raise FrancaError(f"{path}: {fault}")
    return study


def _faults(study: Study) -> Iterator[str]:
    if len(set(study.seeds)) < len(study.seeds):
        yield f"seeds: {study.seeds} names one twice; name each once"
    if empty := [axis for axis, options in study.axes.items() if not options]:
        yield f"axes.{empty[0]}: no options; name at least one"
    if study.compare not in study.axes:
        yield f"compare: no axis {study.compare}; known here: {', '.join(study.axes)}"
    elif study.reference not in study.axes[study.compare]:
        known = ", ".join(study.axes[study.compare])
        yield f"reference: no option {study.reference} of {study.compare}; known here: {known}"
    owner: dict[str, str] = {}
    for axis, options in study.axes.items():
        for key in {key for values in options.values() for key in values}:
            if key in owner:
                yield f"axes: {owner[key]} and {axis} both set {key}; leave it to one of them"
            owner[key] = axis
    for key in (*study.params, *owner):
        if key == _SEED:
            yield f"{_SEED} is set; list the values under seeds instead"
        if key == _EXPERIMENT:
            yield f"{_EXPERIMENT} is set; the runs of a study are in MLflow's experiment study-{study.name}"


def expand(
    study: Study, root: Path, variables: Mapping[str, str] | None, only: Mapping[str, str] | None = None
) -> list[Cell]:
    """Return the cells of a study, seeds innermost, each with valid parameters.

    Args:
        study: The study.
        root: The project's folder.
        variables: What `${name}` stands for: an existing file or folder, or a URL. None leaves variables open; cells
            then have no parameters to run with, only their identity.
        only: Option by axis; other cells are left out.

    Raises:
        FrancaError: with one line for each fault.
    """
    origin = f"study {study.name}"
    for axis, option in (only or {}).items():
        if axis not in study.axes:
            raise FrancaError(f"{origin}: no axis {axis}; known here: {', '.join(study.axes)}")
        if option not in study.axes[axis]:
            raise FrancaError(f"{origin}: no option {option} of {axis}; known here: {', '.join(study.axes[axis])}")
    start, start_digest = _start(study, root)
    places = {name: _place(name, value) for name, value in (variables or {}).items()}
    listings = {name: _listing(path) for name, path in places.items()}
    cells: list[Cell] = []
    used: set[str] = set()
    for chosen in itertools.product(*(options.items() for options in study.axes.values())):
        options = dict(zip(study.axes, (option for option, _ in chosen), strict=True))
        values = {**study.params, **{key: value for _, part in chosen for key, value in part.items()}}
        names = sorted(_variables(values))
        used.update(names)
        if any(options[axis] != option for axis, option in (only or {}).items()):
            continue
        missing = [name for name in names if name not in places] if variables is not None else []
        if missing:
            what = ", ".join(options.values())
            raise FrancaError(f"{origin}: {what}: ${{{missing[0]}}} is not given; use --set {missing[0]}=PATH")
        for seed in study.seeds:
            own = digest([start_digest, {key: value for key, value in values.items() if _counts(key)}, seed])
            if variables is None:
                cells.append(Cell(options, seed, own, "", None))
                continue
            paths = {name: places[name] for name in names}
            whole = _filled(values, paths) | {_SEED: seed, _EXPERIMENT: f"study-{study.name}"}
            params = parse_params(_with_values(start, whole, origin), origin)
            cells.append(Cell(options, seed, own, _data_digest(params, paths, listings, root), params))
    if unused := set(places) - used:
        raise FrancaError(f"{origin}: --set {min(unused)}: no such variable; known here: {', '.join(sorted(used))}")
    return cells


def _start(study: Study, root: Path) -> tuple[Values, Any]:
    """Return the parameters to start from, and what stands for them in a cell's identity.

    A preset is part of the code, so its name is enough. The values of params.yaml are the user's.
    """
    if study.start == str(PARAMS):
        tree = read_yaml(root / PARAMS)
        kept = {key: value for key, value in tree.items() if key not in ("register", "runtime")}
        return tree, kept
    if study.start not in presets.names():
        known = ", ".join([str(PARAMS), *presets.names()])
        raise FrancaError(f"study {study.name}: start: no preset {study.start}; known here: {known}")
    return presets.values(study.start), study.start


def _counts(key: str) -> bool:
    """Return whether a parameter can change results, `register` and most of `runtime` cannot."""
    return key in _KEPT_RUNTIME or not key.startswith(("register.", "runtime."))


def _with_values(tree: Values, values: Values, origin: str) -> Values:
    """Return a copy of a tree of parameters with values set by dotted key."""
    tree = copy.deepcopy(tree)
    for key, value in values.items():
        *parents, leaf = key.split(".")
        section = tree
        for parent in parents:
            section = section.get(parent) if isinstance(section, dict) else None  # type: ignore[assignment]
        if not isinstance(section, dict) or leaf not in section:
            raise FrancaError(f"{origin}: {key}: unknown parameter; params.yaml has all of them")
        section[leaf] = value
    return tree


def _variables(value: Any) -> set[str]:
    return set(_VARIABLE.findall(json.dumps(value)))


def _filled(value: Any, paths: Mapping[str, str]) -> Any:
    """Return a value in which variables are replaced by what they stand for."""
    match value:
        case str():
            return _VARIABLE.sub(lambda found: paths[found[1]], value)
        case dict():
            return {key: _filled(item, paths) for key, item in value.items()}
        case list():
            return [_filled(item, paths) for item in value]
    return value


def _place(name: str, value: str) -> str:
    if "://" in value:
        return value
    path = Path(value).expanduser().resolve()
    if not path.exists():
        raise FrancaError(f"--set {name}={value}: no such folder; give one that exists")
    return str(path)


def _data_digest(params: Params, paths: Mapping[str, str], listings: Mapping[str, Any], root: Path) -> str:
    """Return a digest of the data of a cell: that of data.dvc, and names and sizes of the files in other folders.

    It does not depend on where those folders are.
    """
    tracked = root / "data.dvc"
    sources = [source for source in (params.prepare.source, params.prepare.dense_source) if source]
    inside = any(not source.startswith(tuple(paths.values()) or "\0") for source in sources)
    return digest(
        [
            tracked.read_text(encoding="utf-8") if inside and tracked.exists() else None,
            {name: listings[name] for name in paths},
        ]
    )


def _listing(path: str) -> Any:
    if "://" in path:
        return path
    files = (file for file in Path(path).rglob("*") if file.is_file())
    return sorted([file.relative_to(path).as_posix(), file.stat().st_size] for file in files)


def digest(content: Any) -> str:
    """Return a short digest of JSON content."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
