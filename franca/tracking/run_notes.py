"""Descriptions of MLflow runs: Markdown that the run's page shows at the top."""

import hashlib
from typing import TYPE_CHECKING

from franca.evaluation import report
from franca.params import Params
from franca.tracking.links import MODE
from franca.tracking.run_content import RunContent
from franca.tracking.run_names import data_name
from franca.tracking.score_tables import headline, score_markdown

if TYPE_CHECKING:
    from mlflow import MlflowClient

NOTE = "mlflow.note.content"
"""MLflow's tag with the description of a run."""
WRITTEN = "franca.note"
"""Tag of a run: digest of the description as Franca wrote it, so that it does not replace a person's."""
FLOW_RUN, FLOW_PAGE = "franca.flow_run", "franca.flow_run.url"
"""Tags of a run: the Prefect flow run that it is of, and its page."""


def write_note(client: "MlflowClient", run_id: str, text: str) -> None:
    """Set the description of a run, unless a person has written one."""
    tags = client.get_run(run_id).data.tags
    if NOTE in tags and tags.get(WRITTEN) != _digest(tags[NOTE]):
        return
    client.set_tag(run_id, NOTE, text)
    client.set_tag(run_id, WRITTEN, _digest(text))


def start_note(params: Params, tags: dict[str, str]) -> str:
    """Return the description of a run that is not registered yet."""
    return "\n".join(
        [
            f"{_what(params)}. **Not registered**: the tag `franca.state` says whether it trains, is trained or was"
            " stopped. It has no scores until the stage `register` has run.",
            "",
            *_origin(tags),
        ]
    )


def final_note(params: Params, content: RunContent, tags: dict[str, str], version: str) -> str:
    """Return the description of a registered run: scores beside baselines, the version, and where it comes from.

    Args:
        params: All parameters.
        content: The content of the run.
        tags: The tags of the run.
        version: Number of the registered version of its weights.
    """
    name = params.register_.model_name
    confidence = f"{content.results['suite'].get('confidence', 0.95):.0%}"
    skipped = report.skipped(content.results)
    return "\n".join(
        [
            # MLflow shows only the first lines until "Show more" is clicked.
            f"**{headline(content.results)}**" if headline(content.results) else "",
            "",
            f"{_what(params)}. Registered as [{name} version {version}](#/models/{name}/versions/{version}?{MODE}).",
            "",
            score_markdown(content.all_results),
            "",
            f"Intervals of {confidence}. Artifacts: all scores of all models in `scores.csv`, pictures in"
            " `results/evaluate/plots`.",
            *skipped,
            "",
            *_origin(tags),
            "- to repeat it and compare every byte: `franca reproduce RUN_ID` with the ID of this run",
        ]
    )


def _what(params: Params) -> str:
    size, train = params.base.backbone, params.pretrain
    model = f"a ViT with {size.depth} blocks of width {size.embed_dim}, patches of {size.patch_size} px"
    if not train.epochs:
        return f"The model `{train.init}` as it is, measured on `{data_name(params)}`"
    start = f" from `{train.init}`" if train.init else ""
    return (
        f"Pretraining without labels of {model}, on `{data_name(params)}` at {params.base.image_size} px for"
        f" {train.epochs:g} epochs{start}"
    )


def _origin(tags: dict[str, str]) -> list[str]:
    """Return lines about code, data, machine and flow run."""
    lines = []
    if commit := tags.get("mlflow.source.git.commit"):
        pushed = "" if tags.get("franca.git.pushed") == "true" else ", which is not pushed"
        dirty = " with uncommitted changes (`lineage/code.diff`)" if tags.get("franca.git.dirty") == "true" else ""
        lines.append(f"- code: commit `{commit[:10]}`{pushed}{dirty}")
    if data := tags.get("franca.data.md5"):
        lines.append(f"- data: `{data}` in DVC, remote `{tags.get('franca.data.remote', 'none')}`")
    if host := tags.get("franca.run.host"):
        threads, device = tags.get("franca.run.threads", "?"), tags.get("franca.run.device", "?")
        lines.append(f"- machine: {host}, {device}, threads {threads}, {tags.get('franca.run.cpu_capability', '')}")
    if flow := tags.get(FLOW_RUN):
        page = tags.get(FLOW_PAGE)
        lines.append(f"- Prefect: [{flow}]({page})" if page else f"- Prefect: {flow}")
    return lines


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
