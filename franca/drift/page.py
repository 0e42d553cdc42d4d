"""A drift check as one HTML file without scripts, in the style of the evaluation's report."""

from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from franca.data.store.files.names import printable
from franca.drift.result import headline, sentences
from franca.evaluation.report_page.examples import Query
from franca.files import write_bytes


def write_page(path: Path, result: dict[str, Any], unusual: tuple[Query, ...], typical: tuple[Query, ...]) -> None:
    """Write the page.

    Args:
        path: File to write.
        result: The object of `as_json`.
        unusual: The new images that are farthest from the training images.
        typical: Other new images.
    """
    # The frame and the style sheet are those of the report.
    loader = ChoiceLoader([PackageLoader("franca.drift"), PackageLoader("franca.evaluation.report_page")])
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    content = environment.get_template("drift.html").render(
        headline=headline(result),
        tests=sentences(result),
        result=result,
        folder=printable(result["folder"]),
        alpha=f"{100 * result['alpha']:g} %",
        refused=[(printable(name), printable(reason)) for name, reason in result["refused"]],
        facts=_facts(result),
        unusual=unusual,
        typical=typical,
    )
    write_bytes(path, content.encode())


def _facts(result: dict[str, Any]) -> dict[str, str]:
    return {
        "new images": f"{result['new_images']:,} of {result['folder_images']:,} in {printable(result['folder'])}",
        "training images": f"{result['training_images']:,} of {result['store_images']:,}, evenly spaced",
        "model": str(result["model"]),
        "model digest": str(result["model_digest"]),
        "data digest": str(result["data_digest"]),
        "time": str(result["time"]),
    }
