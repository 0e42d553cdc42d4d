"""The installed `franca` command: where it is installed, and which checkout it runs."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = "import sys; from franca.script import main; sys.exit(main())"


def script(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the script that pip installs, with this checkout as the installed package."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    # -P, since pip's script has its own folder on sys.path, never the current one.
    command = [sys.executable, "-P", "-c", SCRIPT, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def other_checkout(folder: Path) -> Path:
    """Make a checkout whose command line prints `other` and its arguments."""
    package = folder / "franca"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "cli.py").write_text("import sys\n\ndef main():\n    print('other', *sys.argv[1:])\n    return 7\n")
    shutil.copy(ROOT / "franca/__main__.py", package)
    return folder


def test_the_script_runs_the_checkout_that_it_is_called_in(tmp_path: Path) -> None:
    done = script(other_checkout(tmp_path / "worktree"), "params", "list", "a b")
    assert (done.returncode, done.stdout, done.stderr) == (7, "other params list a b\n", "")


def test_the_script_runs_the_installed_code_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "franca").mkdir()  # a folder of that name is no checkout
    (tmp_path / "franca/model.safetensors").touch()
    for folder in (tmp_path, ROOT):
        done = script(folder, "params", "list")
        assert done.returncode == 0 and "overhead-cpu  " in done.stdout and not done.stderr


def test_the_image_has_the_same_command(tmp_path: Path) -> None:
    """The image has no installed package; the Dockerfile writes a script that runs the mounted code."""
    (line,) = [
        line for line in (ROOT / "docker/Dockerfile").read_text().splitlines() if "bin/franca" in line and ">" in line
    ]
    made = tmp_path / "franca.sh"
    written = line.removeprefix("RUN ").removesuffix(" \\").replace("/opt/venv/bin/franca", str(made))
    subprocess.run(written, shell=True, check=True)
    folder = other_checkout(tmp_path / "project")
    python = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(["sh", made, "a b", "--c"], cwd=folder, env=python, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (7, "other a b --c\n")


@pytest.mark.slow
def test_an_installation_has_the_script(tmp_path: Path) -> None:
    """Run the Makefile's command in a new environment that uses the packages of this one."""
    checkout, environment = tmp_path / "checkout", tmp_path / "checkout/.venv"
    checkout.mkdir()
    for name in ("franca", "flows"):
        shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, checkout)
    venv.create(environment, symlinks=True)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(environment), "platbase": str(environment)}))
    (site / "locked.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    (line,) = [line for line in (ROOT / "Makefile").read_text().splitlines() if "--editable" in line]
    install = line.strip().lstrip("@").replace("pip", f"{sys.executable} -m pip --python {environment}/bin/python", 1)
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"PIP_NO_INDEX": "1"}
    subprocess.run(install, shell=True, cwd=checkout, env=clean, check=True)
    command = [f"{environment}/bin/franca", "params", "list"]
    done = subprocess.run(command, cwd=tmp_path, env=clean, capture_output=True, text=True)
    assert done.returncode == 0 and "overhead-cpu  " in done.stdout
    other = subprocess.run(
        command, cwd=other_checkout(tmp_path / "worktree"), env=clean, capture_output=True, text=True
    )
    assert other.stdout == "other params list\n"
