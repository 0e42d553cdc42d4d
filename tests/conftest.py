"""What many tests start from: parameters of a tiny model and a tiny prepared store."""

import copy
import gc
import io
import os
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

import numpy as np
import pytest
from PIL import Image

from franca import presets
from franca.data.store.pack import PackWriter
from franca.files import write_json
from franca.params import ResolvedParams, parse_params, resolve

TOGETHER = (
    ("flows",),
    ("test_faults.py", "test_online.py", "test_parallel.py", "test_resume.py"),
    ("tracking",),
    ("conformance",),
)
"""Folders and modules that one process of pytest-xdist runs, the longest first: they share a server, a process to fork
from, imports that take seconds, or what the tests before have found."""

MakeValues = Callable[..., dict[str, Any]]
MakeParams = Callable[..., ResolvedParams]
MakeStore = Callable[..., Path]
MakeTar = Callable[[Path, Mapping[str, bytes] | Sequence[tuple[str, bytes]]], Path]

# What tests depend on is all here, so that tuning the demo changes none of them.
TINY = {
    "base.seed": 0,
    "base.image_size": 32,
    "base.backbone": {
        "patch_size": 8,
        "embed_dim": 32,
        "depth": 2,
        "num_heads": 2,
        "ffn": "mlp",
        "registers": 0,
        "layer_scale": 1.0,
        "position_resampling": "offset",
    },
    "pretrain.init": None,
    "pretrain.batch_size": 8,
    "pretrain.epochs": 2,
    "pretrain.epoch_length": None,
    "pretrain.drop_path": 0.0,
    "pretrain.precision": "fp32",
    "pretrain.dense_share": 0.1,
    "pretrain.shuffle_window": 16,
    "pretrain.knn_epochs": 1,
    "pretrain.compat": "none",
    "pretrain.crops.global_scale": [0.4, 1.0],
    "pretrain.crops.local_count": 2,
    "pretrain.crops.local_size": 16,
    "pretrain.crops.local_scale": [0.1, 0.4],
    "pretrain.augment.orientation": "dihedral",
    "pretrain.augment.jitter": [0.1, 0.1, 0.1, 0.02],
    "pretrain.augment.jitter_probability": 0.8,
    "pretrain.augment.gray_probability": 0.1,
    "pretrain.augment.blur_probability": [0.5, 0.1, 0.5],
    "pretrain.augment.solarize_probability": 0.1,
    "pretrain.masks.kind": "inverse_block",
    "pretrain.masks.cyclic": True,
    "pretrain.masks.image_share": 0.5,
    "pretrain.masks.ratio": [0.1, 0.65],
    "pretrain.heads.prototypes": 64,
    "pretrain.heads.hidden_dim": 32,
    "pretrain.heads.bottleneck_dim": 16,
    "pretrain.heads.init": "fan_in",
    "pretrain.heads.nesting": "project",
    "pretrain.heads.sharing": "dedicated",
    "pretrain.losses.dino_weight": 1.0,
    "pretrain.losses.ibot_weight": 1.0,
    "pretrain.losses.koleo_weight": 0.1,
    "pretrain.losses.contrastive_weight": 0.0,
    "pretrain.losses.contrastive_temperature": 0.2,
    "pretrain.losses.student_temperature": 0.1,
    "pretrain.losses.teacher_temperature": [0.04, 0.07],
    "pretrain.losses.teacher_warmup_epochs": 1,
    "pretrain.losses.koleo_images": 8,
    "pretrain.losses.assignment": "sinkhorn",
    "pretrain.losses.sinkhorn_iterations": 3,
    "pretrain.losses.center_momentum": 0.9,
    "pretrain.optimizer.base_lr": 4e-3,
    "pretrain.optimizer.min_lr": 1e-6,
    "pretrain.optimizer.warmup_epochs": 0.5,
    "pretrain.optimizer.weight_decay": [0.04, 0.2],
    "pretrain.optimizer.layer_decay": 1.0,
    "pretrain.optimizer.patch_embed_lr": 0.2,
    "pretrain.optimizer.freeze_last_layer_epochs": 0,
    "pretrain.optimizer.clip_norm": 3.0,
    "pretrain.optimizer.teacher_momentum": [0.99, 1.0],
    "evaluate.dense_size": 64,
    "runtime.device": "cpu",
    "runtime.processes": 1,
    "runtime.parallel": "ddp",
    "runtime.microbatch": None,
    "runtime.activation_checkpointing": False,
    "runtime.compile": False,
    "runtime.threads": 1,
    "runtime.deterministic": "strict",
    "runtime.workers": 0,
    "runtime.log_steps": 1,
    "runtime.checkpoint_steps": 2,
    "runtime.keep_checkpoints": 2,
    "runtime.milestone_steps": None,
    "runtime.profile_steps": 0,
}


# Imports and collection make a million objects that live until the end. The garbage collector would look at all of
# them again and again: it stays off until they are there, and ignores them afterwards.
gc.disable()


def group_of(path: PurePath) -> int:
    """Return the place in TOGETHER of a module of tests, or the number after the last."""
    return next((i for i, names in enumerate(TOGETHER) if {path.name, path.parent.name} & {*names}), len(TOGETHER))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put what takes longest first, so that no process of pytest-xdist works alone at the end."""
    items.sort(key=lambda item: group_of(item.path))


def pytest_collection_finish(session: pytest.Session) -> None:
    gc.freeze()
    gc.enable()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Return one process more than there are cores, at most 4: tests wait for servers and child processes."""
    return min(len(os.sched_getaffinity(0)) + 1, 4)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Have one process run the tests of a module, which share fixtures, or of a group of TOGETHER."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path = PurePosixPath(nodeid.partition("::")[0])
            group = group_of(path)
            return str(group) if group < len(TOGETHER) else str(path)

    config.option.loadscopereorder = False  # keep the order of the items
    return Scheduling(config, log)


def write_tar(path: Path, files: Mapping[str, bytes] | Sequence[tuple[str, bytes]]) -> Path:
    """An uncompressed tar of files by name; a list of pairs may hold a name twice."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in files.items() if isinstance(files, Mapping) else files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture(scope="session")
def make_tar() -> MakeTar:
    return write_tar


def set_value(tree: dict[str, Any], path: str, value: Any) -> None:
    """Set the value at a dotted path."""
    *parents, leaf = path.split(".")
    for key in parents:
        tree = tree[key]
    tree[leaf] = value


def _tiny_values(changes: dict[str, Any] | None = None) -> dict[str, Any]:
    tree = presets.values("overhead-cpu")
    for path, value in {**TINY, **(changes or {})}.items():
        set_value(tree, path, copy.deepcopy(value))
    return tree


@pytest.fixture(scope="session")
def tiny_values() -> MakeValues:
    """The tree of params.yaml for a tiny model, with changes by dotted path."""
    return _tiny_values


@pytest.fixture(scope="session")
def tiny_params() -> MakeParams:
    return lambda changes=None: resolve(parse_params(_tiny_values(changes), "tiny"))


def _encoded(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _noise(rng: np.random.Generator, size: int, label: int) -> Image.Image:
    """Noise whose mean color tells the label."""
    pixels = rng.integers(0, 128, (size, size, 3))
    pixels[..., label] += 100
    return Image.fromarray(pixels.astype(np.uint8))


def _make_store(
    folder: Path,
    train: int = 24,
    val: int = 9,
    *,
    images: list[Image.Image] | None = None,
    labelled: bool = True,
    dense: bool = False,
) -> Path:
    rng = np.random.default_rng(0)
    images = images or [_noise(rng, 32, row % 3) for row in range(train + val)]
    with PackWriter(folder / "images") as writer:
        for row, image in enumerate(images):
            label, split = row % 3 if labelled else -1, int(row >= train)
            writer.add(_encoded(image), height=image.height, width=image.width, label=label, split=split)
        writer.close()
    if dense:
        with PackWriter(folder / "dense/images") as pictures, PackWriter(folder / "dense/masks") as masks:
            for split in (0, 0, 1):
                pictures.add(_encoded(Image.new("RGB", (80, 64), "white")), height=64, width=80, split=split)
                masks.add(_encoded(Image.new("L", (80, 64), 1)))
            pictures.close()
            masks.close()
    about = {"classes": ["land", "water"], "ignore": 255} if dense else None
    classes = ["red", "green", "blue"] if labelled else []
    channels = {"mean": [0.38, 0.38, 0.38], "std": [0.24, 0.24, 0.24]}
    write_json(folder / "manifest.json", {"classes": classes, "channels": channels, "dense": about})
    return folder


@pytest.fixture(scope="session")
def make_store() -> MakeStore:
    """Writes a prepared store: 24 images of 32 x 32 pixels to train on, 9 as val, or those given."""
    return _make_store
