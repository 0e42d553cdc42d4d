"""Names of MLflow runs that a person can read; MLflow does not require them to be unique."""

from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from franca.params import Params

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

HEADLINES = {"knn/val/top1": "k-NN", "views/val/top1": "views"}
"""Scores that a name may end with, the first that was measured, and their titles."""


def data_name(params: Params) -> str:
    """Return the last part of `prepare.source`."""
    return PurePosixPath(params.prepare.source.rstrip("/")).name[:40] or "images"


def start_name(params: Params, fingerprint: str) -> str:
    """Return the name of a run that trains: data, architecture, length and the first digits of the fingerprint."""
    size = params.base.backbone
    what = f"ViT {size.embed_dim}x{size.depth}/{size.patch_size}, {params.pretrain.epochs:g} epochs"
    if params.pretrain.epochs == 0:
        what = f"{PurePosixPath(str(params.pretrain.init)).name}, not trained"
    return f"{data_name(params)}, {what} ({fingerprint.removeprefix('pretrain-')[:8]})"


def final_name(params: Params, fingerprint: str, scores: dict[str, float]) -> str:
    """Return the name of a complete run, which has its main score as well."""
    name = start_name(params, fingerprint)
    headline = next((f"{title} {scores[key]:.1f}" for key, title in HEADLINES.items() if key in scores), None)
    return f"{headline}: {name}" if headline else name


def rename(client: "MlflowClient", run: "Run", known: tuple[str, ...], name: str) -> None:
    """Rename a run, unless a person has given it a name that is not one of `known`."""
    if run.info.run_name != name and run.info.run_name in known:
        client.update_run(run.info.run_id, name=name)
