"""Promotion as a Prefect flow: a dry run unless `apply` is set. A version that needs approval suspends the flow."""

import json
import sys
from pathlib import Path
from typing import Any, Literal

from prefect import flow, get_run_logger, suspend_flow_run, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import RUN_ID
from prefect.input import RunInput
from prefect.runtime import deployment
from prefect.states import Completed, State
from pydantic import Field

from flows.commands import run
from franca.errors import ApprovalNeeded, FrancaError, GatesFailed


class Verdict(RunInput):
    """The form in which a person decides about a version."""

    version: str = Field(pattern=r"^[0-9]+$", description="Number of the version that this decides about.")
    decision: Literal["approve", "reject"] = Field(description="Make it champion, or keep it from becoming one.")
    name: str = Field(min_length=1, max_length=100, description="Who decides; it is kept in the history.")
    reason: str = Field(min_length=1, max_length=1000, description="Why; it is kept in the history.")


# A suspended flow starts again from the beginning once a person has answered. The stored result makes it go on with
# the version that the form was about, even if there is a newer challenger.
@task(persist_result=True, cache_policy=RUN_ID)
def check_gates(apply: bool) -> dict[str, Any]:
    """Run `franca promote` and return what it prints as JSON."""
    command = [sys.executable, "-m", "franca", "promote", "--json", *(["--apply"] if apply else [])]
    logger = get_run_logger()
    code, lines = run(command, Path.cwd(), lambda line: None if line.startswith("{") else logger.info(line))
    if code not in (0, GatesFailed.exit_code, ApprovalNeeded.exit_code):
        raise FrancaError(lines[-1] if lines else f"franca promote ended with exit code {code}")
    return dict(json.loads(next(line for line in lines if line.startswith("{"))))


@flow
def promote(apply: bool = False) -> State[None] | None:
    """Check the challenger's gates in params.yaml; with `apply`, make it champion if all of them pass.

    With `register.promotion: manual`, the flow is suspended until a person has approved or rejected the version.
    """
    found = check_gates(apply)
    text = page(found)
    create_markdown_artifact(key="promotion", markdown=text)
    match found["outcome"]:
        case "wait" if apply:
            return ask(found["version"], text)
        case "wait":
            return Completed(name="NeedsApproval", message=found["reason"])
        case "promote" | "champion" | "nothing":
            return None
    return Completed(name="GatesFailed", message=found["reason"])


def ask(version: str, text: str) -> State[None] | None:
    """Suspend the flow until the form is filled in, then do what it says."""
    logger = get_run_logger()
    if deployment.id is None:  # only the runs of a deployment can be started again
        return Completed(name="NeedsApproval", message=f"`franca approve {version} --reason TEXT` or `franca reject`")
    verdict = suspend_flow_run(wait_for_input=Verdict.with_initial_data(description=text, version=version))
    command = [sys.executable, "-m", "franca", verdict.decision, verdict.version, "--reason", verdict.reason]
    code, lines = run(command, Path.cwd(), logger.info, {"FRANCA_ACTOR": verdict.name})
    if code:
        raise FrancaError(lines[-1] if lines else f"franca {verdict.decision} ended with exit code {code}")
    return None if verdict.decision == "approve" else Completed(name="Rejected", message=verdict.reason)


def page(found: dict[str, Any]) -> str:
    """Return the outcome as Markdown: scores with intervals, the result of each gate, and links."""
    lines = [f"**{found['model']} version {found['version']}**: {found['reason']}", ""]
    if found.get("from") != found.get("to"):
        lines += [f"Champion {found['from'] or 'none'} -> {found['to']}", ""]
    if scores := found.get("scores"):
        lines += ["| Metric on val | This version | Champion |", "| --- | --- | --- |"]
        lines += [f"| {row['metric']} | {_cell(row['version'])} | {_cell(row['champion'])} |" for row in scores]
        lines.append("")
    for gate in found.get("gates", []):
        lines.append(f"- {'' if gate['passed'] else '**FAIL**: '}{gate['sentence']}")
    lines += [f"- {note}" for note in found.get("notes", [])]
    if pages := found.get("links"):
        lines += ["", f"In MLflow: {', '.join(f'[{what}]({url})' for what, url in pages.items())}"]
    return "\n".join(lines)


def _cell(score: dict[str, float] | None) -> str:
    return f"{score['value']:.1f} [{score['low']:.1f}, {score['high']:.1f}]" if score else ""
