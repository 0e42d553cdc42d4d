"""The layout of the code: imports point one way, and each stage of dvc.yaml depends on the code that it runs."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from dvc.repo import Repo

from franca.arguments import STAGES
from franca.params import read_yaml

ROOT = Path(__file__).parents[1]
PIPELINE = read_yaml(ROOT / "dvc.yaml")["stages"]
ONCE = {name: stage for name, stage in PIPELINE.items() if "foreach" not in stage}
STAGE_DEPS = {name: stage.get("do", stage).get("deps", []) for name, stage in PIPELINE.items()}

# How a stage is started and supervised; none of it can change a result.
GLUE = {
    f"franca/{name}.py"
    for name in (
        "__init__",
        "__main__",
        "advice",
        "arguments",
        "cli",
        "errors",
        "files",
        "paths",
        "process",
        "yaml_edit",
        "yaml_file",
    )
} | {
    f"franca/plan/{name}.py"
    for name in (
        "counting",
        "estimate",
        "folder_facts",
        "hardware",
        "random_step",
        "report",
        "starting_params",
        "timing",
    )
}
GLUE |= {str(path.relative_to(ROOT)) for path in (ROOT / "franca/params").glob("*.py")}

# Imported by name: the module that imports, and the folder of modules that it may import.
LOADED_BY_NAME = {"franca/evaluation/suite.py": "franca/evaluation/benchmarks"}


def sources(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    """Every module that a file imports when it runs, inside functions too, and names that may be modules."""
    nodes: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            nodes += node.orelse
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        nodes += ast.iter_child_nodes(node)


def module_name(path: Path) -> str:
    return str(path.relative_to(ROOT).with_suffix("")).replace("/", ".")


def top_levels(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in imported(path)}


def file_of(module: str) -> str | None:
    path = module.replace(".", "/")
    return next((file for file in (f"{path}.py", f"{path}/__init__.py") if (ROOT / file).exists()), None)


def code_of(stage: str) -> set[str]:
    """The package's files, relative to the root, that the stage's entry module imports other than through `GLUE`."""
    seen: set[str] = set()
    modules = {STAGES[stage.removesuffix("_dataset")][0]}
    while modules:
        module = modules.pop()
        file = file_of(module)
        if module.partition(".")[0] == "franca" and file is not None and file not in seen:
            seen.add(file)
            parents = (module.rsplit(".", steps)[0] for steps in range(1, module.count(".") + 1))
            modules.update(parents, () if file in GLUE else imported(ROOT / file))
            if file in LOADED_BY_NAME:
                modules.update(module_name(path) for path in sources(LOADED_BY_NAME[file]))
    return seen


@pytest.mark.parametrize("path", sources("franca"), ids=lambda path: str(path.relative_to(ROOT)))
def test_the_library_knows_nothing_above_it(path: Path) -> None:
    assert not top_levels(path) & {"prefect", "dvc", "flows", "docker"}
    if (ROOT / "franca/tracking") not in path.parents:
        assert "mlflow" not in top_levels(path)


def package_of(file: str) -> str:
    """The package of a file, or the file itself at the top: franca/data/store, franca/losses, franca/files.py."""
    parts = Path(file).parts
    return "/".join(parts[:3] if parts[1] == "data" else parts[:2])


def test_packages_import_each_other_in_one_direction() -> None:
    graph: dict[str, set[str]] = {}
    for path in sources("franca"):
        file = str(path.relative_to(ROOT))
        used = {
            package_of(found) for name in imported(path) if (found := file_of(name)) and found.startswith("franca/")
        }
        graph.setdefault(package_of(file), set()).update(used - {package_of(file), "franca/__init__.py"})
    list(TopologicalSorter(graph).static_order())  # raises CycleError


def test_flows_use_no_stage_directly() -> None:
    """They call commands; what a stage imports must not lie in the memory of Prefect's worker."""
    for path in sources("flows"):
        used = {file_of(name) for name in imported(path) if name.startswith("franca.")} - {None}
        light = {
            f"franca/{name}.py"
            for name in (
                "errors",
                "events",
                "files",
                "git",
                "params/__init__",
                "params/overrides",
                "params/render",
                "paths",
                "presets/__init__",
                "tracking/receipt",
                "worktree",
            )
        }
        assert {str(file) for file in used if not str(file).startswith("franca/study/")} <= light, path


def test_studies_use_no_stage() -> None:
    used = {file_of(name) for path in sources("franca/study") for name in imported(path)} - {None}
    rooms = {str(file).removeprefix("franca/").partition("/")[0].removesuffix(".py") for file in used}
    light = {"benchmarks", "errors", "file_lock", "files", "git", "params", "paths", "presets", "__init__"}
    assert rooms - {"study"} <= light


def test_the_light_modules_are_light() -> None:
    code = "import sys, franca, franca.cli; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert not set(done.stdout.split()) & {"torch", "timm", "mlflow", "prefect", "dvc", "sklearn"}


def test_the_pipeline_is_the_command_line() -> None:
    assert list(ONCE) == list(STAGES)
    for name, stage in ONCE.items():
        assert stage["cmd"] == f"python -m franca {name}"
    for name in PIPELINE.keys() - ONCE.keys():
        command = name.removesuffix("_dataset")
        assert PIPELINE[name]["do"]["cmd"] == f"python -m franca {command} --dataset ${{key}}"


# A stage that always runs needs no code dependencies.
@pytest.mark.parametrize("stage", [name for name in PIPELINE if not PIPELINE[name].get("always_changed")])
def test_code_dependencies_are_the_modules_that_a_stage_imports(stage: str) -> None:
    dependencies = {dep for dep in STAGE_DEPS[stage] if dep.startswith("franca/")}
    code = code_of(stage)
    covers = {dep: {file for file in code if Path(dep) in (Path(file), *Path(file).parents)} for dep in dependencies}
    packages = {file for file in code if file.endswith("/__init__.py") and not (ROOT / file).read_text().strip()}
    missing = code - GLUE - packages - set().union(*covers.values())
    unused = {dep for dep in dependencies if not covers[dep]}
    assert not missing, f"{stage} imports these, but dvc.yaml does not say so"
    assert not unused, f"dvc.yaml names these for {stage}, which does not import them"


def test_the_lock_file_has_nothing_of_this_machine() -> None:
    assert "outs" not in PIPELINE["register"], "the receipt names a run of one tracking server"


def test_no_stage_depends_on_glue() -> None:
    for name, deps in STAGE_DEPS.items():
        assert not GLUE & set(deps), name


def test_compiled_python_changes_no_digest_of_a_folder() -> None:
    """If it did, `dvc repro` in a fresh clone would run each stage whose code Python has just compiled."""
    with Repo(str(ROOT)) as repo:
        assert repo.dvcignore.is_ignored_dir(str(ROOT / "franca/data/__pycache__"))
        assert not repo.dvcignore.is_ignored_dir(str(ROOT / "franca/data"))
