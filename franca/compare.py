"""`franca compare`: evaluations of several models next to each other."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from franca.errors import FrancaError
from franca.evaluation import side_by_side
from franca.evaluation.comparison import Evidence
from franca.evaluation.outcomes import FILE, read_outcomes
from franca.evaluation.report_page.comparison_page import write_comparison
from franca.files import read_json, write_bytes, write_json
from franca.tracking.score_check import check_scores

ADDRESSES = ("models:/", "runs:/")
_ROW: dict[str, type | tuple[type, ...]] = dict.fromkeys(("model", "benchmark", "split", "metric"), str)
_ROW |= dict.fromkeys(("value", "low", "high"), (int, float)) | {"n": int}


def run(sources: Sequence[str], *, as_json: bool = False, output: Path | None = None) -> None:
    """Print the comparison of two or more evaluations, and write it to a folder.

    Args:
        sources: Folders with `results.json`, `models:/NAME/VERSION`, `models:/NAME@ALIAS` or `runs:/ID`; differences
            are to the first one.
        as_json: Print JSON instead of a table.
        output: Folder for `comparison.json`, `comparison.csv` and `comparison.html`; None to write none.

    Raises:
        FrancaError: A source cannot be read, or they were not measured on the same data by the same rules.
    """
    if len(sources) < 2:
        raise FrancaError(f"{sources[0]}: nothing to compare it with; name two or more evaluations")
    if twice := next((source for source in sources if sources.count(source) > 1), None):
        raise FrancaError(f"{twice}: named twice; name each evaluation once")
    content = side_by_side.side_by_side({source: read(source) for source in sources})
    if not content["differences"]:
        raise FrancaError(f"{', '.join(sources)}: have no score in common; measure them with the same suite")
    if output is not None:
        write_json(output / "comparison.json", content)
        write_bytes(output / "comparison.csv", side_by_side.to_csv(content).encode())
        write_comparison(output / "comparison.html", content)
    print(json.dumps(content, indent=2) if as_json else side_by_side.text(content))


def read(source: str) -> Evidence:
    """Return the results of an evaluation.

    Args:
        source: As in `run`.

    Raises:
        FrancaError: There are none, or they are damaged or impossible.
    """
    if source.startswith(ADDRESSES):
        from franca.tracking.download import download_evidence

        evidence = download_evidence(source)
        _check_form(evidence.results, source)
    else:
        evidence = _read_folder(Path(source))
    check_scores(evidence, source)
    return evidence


def _read_folder(folder: Path) -> Evidence:
    path = folder / "results.json"
    if not path.is_file():
        inner = folder / "results/evaluate"
        hint = inner if (inner / "results.json").is_file() else "the folder of an evaluation, such as results/evaluate"
        raise FrancaError(f"{path}: no such file; name {hint}")
    try:
        results = read_json(path)
    except ValueError:
        raise FrancaError(f"{path}: is not JSON; run the evaluation again") from None
    _check_form(results, str(path))
    return Evidence(results, read_outcomes(folder / FILE, results["model_digest"]))


def _check_form(results: Any, origin: str) -> None:
    """Check that results have all that is compared."""
    forms: dict[str, type] = {"data_digest": str, "model_digest": str, "suite": dict, "rows": list}
    if not isinstance(results, dict) or not all(isinstance(results.get(key), form) for key, form in forms.items()):
        raise FrancaError(f"{origin}: no results of `franca evaluate`; run it again")
    suite = results["suite"]
    if not isinstance(suite.get("bootstrap_samples"), int) or not isinstance(suite.get("confidence"), float):
        raise FrancaError(f"{origin}: the suite has no bootstrap_samples or confidence; run `franca evaluate` again")
    for row in results["rows"]:
        if not isinstance(row, dict) or not all(isinstance(row.get(key), form) for key, form in _ROW.items()):
            raise FrancaError(f"{origin}: a row without model, metric or interval; run `franca evaluate` again")
