"""Run a study: every cell of a grid of parameters and seeds that has not run, then its page.

python -m flows.study studies/heads.yaml --set photos=PATH
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger

from flows.pipeline import pull, reproduce
from flows.workspace import experiment
from franca.errors import FrancaError
from franca.params import Params
from franca.paths import runs_root
from franca.study import records
from franca.study.arguments import add_arguments, run_command, variables_of
from franca.study.grid import expand, read_study
from franca.study.page import write_page


@flow(name="cell", flow_run_name="{name}")
def run_cell(name: str, params: Params) -> dict[str, Any]:
    """Run the stages of one cell in a worktree of its own, and return what it found."""
    stages = records.stages(Path.cwd())
    with experiment(params, name, get_run_logger().info, stages) as place:
        pull(place)
        for stage in stages:
            reproduce(stage, place)
        return records.measure(place.folder, runs_root())


@flow(name="study", flow_run_name="{path.stem}")
def run_study(path: Path, variables: dict[str, str], only: dict[str, str]) -> None:
    """Run the cells of a study that are not finished, one after the other, and write its page.

    A failed cell does not stop the others. A cell that was killed goes on from its checkpoint when the study is run
    again.
    """
    logger, root = get_run_logger(), Path.cwd()
    study = read_study(path)
    cells = expand(study, root, variables, only)
    for name in records.drop_stale(study, root, cells):
        logger.warning("%s: its parameters or data have changed; its result is dropped", name)
    code = records.code_version(root)
    failed: dict[str, str] = {}
    finished = records.load(study, root)
    for number, cell in enumerate(cells, start=1):
        name, at = cell.name(study.name), f"{number} of {len(cells)}"
        if record := records.find(finished, cell):
            other = "" if record["code"] == code["code"] else f", by other code ({record['commit']})"
            logger.info("cell %s: %s: finished before%s", at, name, other)
            continue
        logger.info("cell %s: %s", at, name)
        try:
            assert cell.params is not None
            found = run_cell(name, cell.params)
        except Exception as error:
            failed[name] = str(error)
            logger.error("cell %s: %s failed: %s", at, name, error)
        else:
            records.add(study, root, records.identity(study, cell) | code | found)
            write_page(study, root)
    if len(failed) < len(cells):
        write_page(study, root)
    if other_code := [record["name"] for record in finished if record["code"] != code["code"]]:
        logger.warning(
            "%d finished cells were computed by other code; remove them from %s to run them again",
            len(other_code),
            records.path_of(study, root),
        )
    if failed:
        lines = [f"{name}: {reason}" for name, reason in failed.items()]
        raise FrancaError("\n".join([f"{len(failed)} of {len(cells)} cells failed; run again to try them", *lines]))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a study, or rebuild its page."""
    parser = argparse.ArgumentParser(prog="python -m flows.study", description="Run the cells of a study.")
    add_arguments(parser)
    parser.add_argument("--report-only", action="store_true", help="write the page from the stored results")
    given = parser.parse_args(arguments)
    study = read_study(given.study)
    if given.report_only:
        write_page(study, Path.cwd())
        return
    variables, only = variables_of(given)
    expand(study, Path.cwd(), variables, only)
    run_study(given.study, variables, only)


if __name__ == "__main__":
    run_command(main)
