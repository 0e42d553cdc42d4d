"""A drift check as one HTML file without scripts, in the style of the evaluation's report."""

from pathlib import Path
from typing import Any

from franca.data.store.files.names import printable
from franca.drift.result import headline, sentences
from franca.evaluation.report_page.examples import Query
from franca.files import write_bytes
from franca.pages import render_page


def write_page(path: Path, result: dict[str, Any], unusual: tuple[Query, ...], typical: tuple[Query, ...]) -> None:
    """Write the page.

    Args:
        path: File to write.
        result: The object of `as_json`.
        unusual: The new images that are farthest from the training images.
        typical: Other new images.
    """
    content = render_page(
        "franca.drift",
        "drift.html",
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
    write_bytes(path, content)


def _facts(result: dict[str, Any]) -> dict[str, str]:
    return {
        "new images": f"{result['new_images']:,} of {result['folder_images']:,} in {printable(result['folder'])}",
        "training images": f"{result['training_images']:,} of {result['store_images']:,}, evenly spaced",
        "model": str(result["model"]),
        "model digest": str(result["model_digest"]),
        "data digest": str(result["data_digest"]),
        "time": str(result["time"]),
    }
