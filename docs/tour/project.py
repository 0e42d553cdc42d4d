"""A clone of this checkout in which the tour happens: three classes of the demo's images, a small model, few steps."""

import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path

from franca import presets

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ROOT / "data/eurosat"
CLASSES = ("Forest", "Residential", "SeaLake")
CHANGES = (
    "base.backbone.embed_dim=48",
    "base.backbone.depth=2",
    "base.backbone.num_heads=3",
    "prepare.dense_source=null",
    "pretrain.dense_share=0",
    "pretrain.epochs=0.5",
    "disentangle.rounds=2",
    "evaluate.bootstrap_samples=200",
    # The gates of a real project compare with baselines, too; in a tour of minutes no model would pass them.
    "register.gates=[{metric: knn/val/top1, against: champion, min_improvement: 0, floor: 20}]",
    "runtime.log_steps=10",
)


class Project:
    """The clone, and the environment of commands that run in it."""

    def __init__(self, folder: Path, addresses: Mapping[str, str]) -> None:
        """Clone the checkout's last commit, and commit the tour's data and parameters there.

        Args:
            folder: Where to clone to; must not exist.
            addresses: Environment variables with the servers' addresses.
        """
        self.folder = folder
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("DVC_ROOT", "FRANCA_"))},
            **addresses,
            "PYTHONPATH": str(folder),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PREFECT_HOME": str(folder / "prefect"),
        }
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
        for key, value in (("user.name", "tour"), ("user.email", "tour@localhost")):
            self.run("git", "config", key, value)
        self.held_out = folder.parent / "held_out"
        (folder / "data/images").mkdir(parents=True)
        for name in CLASSES:
            shutil.copy(IMAGES / f"train/{name}.tar", folder / "data/images")
            unpack(IMAGES / f"test/{name}.tar", self.held_out / name)
        self.run(sys.executable, "-m", "dvc", "add", "--quiet", "data")
        self._changes: list[str] = []
        self.set("prepare.source=data/images", *CHANGES)

    def run(self, *command: str, code: int = 0) -> str:
        """Run a command and return what it prints.

        Args:
            command: Program and arguments.
            code: The exit code that it must have.

        Raises:
            RuntimeError: It ends with another one.
        """
        done = subprocess.run(command, cwd=self.folder, env=self.environment, capture_output=True, text=True)
        if done.returncode != code:
            last = (done.stdout + done.stderr).strip()[-2000:]
            raise RuntimeError(f"{' '.join(command)}: exit code {done.returncode}\n{last}")
        return done.stdout

    def franca(self, *arguments: str, code: int = 0) -> str:
        """Run a `franca` command and return what it prints."""
        return self.run(sys.executable, "-m", "franca", *arguments, code=code)

    def set(self, *changes: str) -> None:
        """Change values of params.yaml, as NAME=VALUE, and commit it."""
        self._changes += changes
        presets.write(presets.changed("overhead-cpu", self._changes), self.folder / "params.yaml", "The tour's.")
        self.run("git", "add", "--all")
        self.run("git", "commit", "--quiet", "--message", changes[-1])


def unpack(tar: Path, folder: Path) -> None:
    """Unpack a tar of images into a new folder."""
    with tarfile.open(tar) as images:
        images.extractall(folder, filter="data")
