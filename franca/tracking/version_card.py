"""The description of a registered version: a model card with scores, limits, data, lineage and the last decision."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from franca.benchmarks import BY_NAME
from franca.evaluation import report
from franca.formats.model_card import ABOUT, facts_table
from franca.models.model import FrancaModel, load_model
from franca.tracking.decision_text import (
    DECISION,
    HEADING,
    MAX_DESCRIPTION,
    WRITTEN,
    description_digest,
    is_ours,
    with_decision,
)
from franca.tracking.links import MODE
from franca.tracking.run_content import RunContent
from franca.tracking.score_tables import SPLITS, score_markdown

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

_ROOM = 1500
"""Characters that are kept free for the decision, which may become longer."""


def version_card(model: FrancaModel, content: RunContent, run: "Run", name: str, number: str) -> str:
    """Return the card of a version; shorter tables if it would be longer than MLflow can store.

    Args:
        model: The model.
        content: The content of the run that measured it.
        run: That run.
        name: Name of the registered model.
        number: Number of the version.
    """
    for splits in (SPLITS, SPLITS[:1], ()):
        text = _card(model, content, run, f"models:/{name}/{number}", splits)
        if len(text) <= MAX_DESCRIPTION - _ROOM:
            break
    return text


def describe_version(
    client: "MlflowClient", version: "ModelVersion", run: "Run", content: RunContent, folder: Path
) -> None:
    """Write the card of a version, with its last decision, unless a person has described it.

    Args:
        client: The tracking server.
        version: The version.
        run: The run that measured it.
        content: The content of that run.
        folder: The model folder.
    """
    if not is_ours(version.description or "", version.tags):
        return
    name, number = version.name, str(version.version)
    sentences = str(version.tags.get(DECISION, "")).splitlines()
    text = with_decision(version_card(load_model(folder), content, run, name, number), sentences)
    client.update_model_version(name, number, text)
    client.set_model_version_tag(name, number, WRITTEN, description_digest(text))


def _card(model: FrancaModel, content: RunContent, run: "Run", address: str, splits: tuple[str, ...]) -> str:
    tags, run_id = run.data.tags, run.info.run_id
    page = f"[{run.info.run_name}](#/experiments/{run.info.experiment_id}/runs/{run_id}?{MODE})"
    confidence = f"{content.results['suite'].get('confidence', 0.95):.0%}"
    table = score_markdown(content.all_results, splits) if splits else "In the artifact `scores.csv` of the run."
    code = tags.get("franca.train.commit") or tags.get("mlflow.source.git.commit", "not recorded")
    return f"""{ABOUT}

{facts_table(model)}

## Load

```
import franca
pooled, patches = franca.load("{address}")(images)  # uint8 (N, 3, H, W)
```

## Scores

{table}

Intervals of {confidence}. Test images were used for nothing but this report.

## Limits

{_limits(content)}

## Data and lineage

{_data(content)}
- run: {page}
- code: commit `{code[:10]}`; to repeat it and compare every byte: `franca reproduce {run_id}`

{HEADING}

"""


def _limits(content: RunContent) -> str:
    """Return what the scores do not show, as a list."""
    lines = [
        "- Scores hold for images like those of the data below, and say little about others.",
        "- Features are not classes: put a probe, k-NN or a head on top of them.",
        *(f"- {line}" for line in report.skipped(content.results)),
    ]
    titles = report.titles(content.results)
    behind = [
        f"{BY_NAME[row['benchmark']].title} ({titles[row['against']]})"
        for row in content.results.get("differences", [])
        if row["split"] == "test" and _is_worse(row)
    ]
    if behind:
        lines.append(f"- On test, worse than another model in {', '.join(behind)}.")
    return "\n".join(lines)


def _is_worse(difference: dict[str, Any]) -> bool:
    """Return whether the interval of a difference shows that this model is worse."""
    higher = BY_NAME[difference["benchmark"]].higher_is_better
    return bool(difference["high"] < 0 if higher else difference["low"] > 0)


def _data(content: RunContent) -> str:
    if not content.manifest:
        return "- images: not recorded"
    counts = ", ".join(f"{part['images']:,} {split}" for split, part in content.manifest["counts"].items())
    digest = content.results["data_digest"][:12]
    return f"- images: `{content.manifest['source']['path']}` ({counts}), digest `{digest}`"
