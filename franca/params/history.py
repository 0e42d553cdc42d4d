"""Keys that params.yaml gained, lost and changed since its first version.

A file that is older than a key gets the value with which a run does what it did before the key existed. That is seldom
the value that a preset has: presets turn new things on, an update must not.

If you add a field to the models, add it to `ADDED`; if you remove or rename one, add it to `REPLACED`. Tests check it.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

Tree = Mapping[str, Any]
Older = Callable[[Tree], Any]
"""Returns the value for an older file from the tree of its values."""


def _same(value: Any) -> Older:
    return lambda tree: value


def get(tree: Any, path: str) -> Any:
    """Return the value at a dotted path, None if there is none."""
    for part in path.split("."):
        tree = tree.get(part) if isinstance(tree, Mapping) else None
    return tree


class Replaced(NamedTuple):
    """A key of older versions, the key that took its place, and how to convert the value."""

    key: str
    convert: Older
    comments: tuple[str, ...]
    """Comments that Franca itself wrote above the old key; they are removed with it."""


def _microbatch(tree: Tree) -> int | None:
    """The images of a part, if each process cut its share of a batch into `accumulation_steps` parts."""
    batch, processes = get(tree, "pretrain.batch_size"), get(tree, "runtime.processes") or 1
    parts = get(tree, "runtime.accumulation_steps")
    if not all(isinstance(value, int) and value > 0 for value in (batch, processes, parts)):
        return None
    return None if parts == 1 else batch // processes // parts


def _dense_share(tree: Tree) -> float:
    return 0.1 if get(tree, "pretrain.include_dense") and get(tree, "prepare.dense_source") else 0.0


ADDED: dict[str, Older] = {
    "base.mean": _same([0.485, 0.456, 0.406]),  # ImageNet's; models were normalized with these
    "base.std": _same([0.229, 0.224, 0.225]),
    "base.backbone.position_resampling": _same("offset"),
    "prepare.storage": _same("pack"),
    "pretrain.dense_share": _same(0.0),
    "pretrain.shuffle_window": _same(16384),  # not used by packs
    "pretrain.heads.init": _same("fixed"),
    "pretrain.losses.contrastive_weight": _same(0.0),
    "pretrain.losses.contrastive_temperature": _same(0.2),  # not used without a weight
    "pretrain.losses.koleo_images": lambda tree: get(tree, "pretrain.batch_size"),  # KoLeo saw the whole batch
    "pretrain.losses.assignment": _same("sinkhorn"),
    "pretrain.losses.center_momentum": _same(0.9),  # not used by sinkhorn
    "pretrain.compat": _same("none"),
    "evaluate.suite": _same("fast"),
    "evaluate.in_context_memory": _same(10240),
    "evaluate.comparators": _same([]),
    "datasets": _same({}),
    "register.promotion": _same("auto"),
    "register.gates[].against": _same("champion"),
    "runtime.processes": _same(1),
    "runtime.parallel": _same("ddp"),
    "runtime.microbatch": _same(None),
    "runtime.activation_checkpointing": _same(False),
    "runtime.compile": _same(False),
    "runtime.deterministic": _same("strict"),
    "runtime.milestone_steps": _same(None),
    "runtime.profile_steps": _same(0),
}
"""Keys that the first version did not have; `[]` stands for each item of a list."""

REPLACED: dict[str, Replaced] = {
    "pretrain.include_dense": Replaced(
        "pretrain.dense_share", _dense_share, ("Also train on crops of the dense set's training images.",)
    ),
    "runtime.accumulation_steps": Replaced(
        "runtime.microbatch",
        _microbatch,
        ("Parts into which each process cuts its share of a batch, one after the other, to save memory.",),
    ),
}
