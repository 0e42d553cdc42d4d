"""Run the cells of a study as plain processes, several at a time, without DVC, Prefect and MLflow.

python -m franca.study.processes studies/heads-long.yaml --set photos=PATH --parallel 12 --folder FOLDER

For a machine that has none of them, such as a node of a cluster, or for small models that leave most of a GPU idle.
`flows/study.py` is the usual way: it caches and records every cell. Both add to the same results and write the same
page, so one can go on where the other stopped.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from franca.errors import FrancaError
from franca.files import write_json
from franca.params import Params
from franca.paths import PARAMS, PREPARED
from franca.study import records
from franca.study.arguments import add_arguments, run_command, variables_of
from franca.study.grid import Cell, Study, digest, expand, read_study
from franca.study.page import write_page

_LOG = "output.log"


def run_cells(study: Study, root: Path, cells: list[Cell], parallel: int, folder: Path) -> dict[str, str]:
    """Run the cells that have not finished, and write the study's page.

    Args:
        study: The study.
        root: The project's folder.
        cells: Cells with parameters.
        parallel: How many run at once.
        folder: Gets a project folder for each cell, with its checkpoints and the output of its stages. A cell that
            was killed goes on from its checkpoint when it is run again with the same folder.

    Returns:
        By name of a failed cell, the reason.
    """
    for name in records.drop_stale(study, root, cells):
        print(f"{name}: its parameters or data have changed; its result is dropped")
    finished = records.load(study, root)
    waiting = [cell for cell in cells if not records.find(finished, cell)]
    print(f"{len(cells) - len(waiting)} of {len(cells)} cells are finished", flush=True)
    code, failed = records.code_version(root), {}
    stores = {_store(folder, cell): cell for cell in waiting}
    with ThreadPoolExecutor(parallel) as pool:
        list(pool.map(lambda store: _prepare(root, *store), stores.items()))
        running = {pool.submit(_run, study, root, cell, folder): cell for cell in waiting}
        for future in as_completed(running):
            cell = running[future]
            name = cell.name(study.name)
            try:
                records.add(study, root, records.identity(study, cell) | code | future.result())
                print(f"{name}: finished", flush=True)
            except FrancaError as error:
                failed[name] = str(error)
                print(f"{name}: {error}", file=sys.stderr, flush=True)
    if len(failed) < len(cells):
        write_page(study, root)
    return failed


def _store(folder: Path, cell: Cell) -> Path:
    """Return the project folder in which the images of a cell are prepared; cells with the same images share it."""
    return folder / f"prepare-{digest(_params(cell).prepare.model_dump(mode='json'))}"


def _prepare(root: Path, project: Path, cell: Cell) -> None:
    _set_up(root, project, _params(cell))
    _stage(project, "prepare")


def _run(study: Study, root: Path, cell: Cell, folder: Path) -> records.Record:
    project = folder / cell.name(study.name)
    _set_up(root, project, _params(cell))
    if not (project / PREPARED).exists():
        (project / PREPARED).symlink_to(_store(folder, cell) / PREPARED)
    for stage in records.stages(root):
        if stage != "prepare":
            _stage(project, stage)
    return records.measure(project, project / "runs")


def _params(cell: Cell) -> Params:
    assert cell.params is not None
    return cell.params


def _set_up(root: Path, project: Path, params: Params) -> None:
    project.mkdir(parents=True, exist_ok=True)
    write_json(project / PARAMS, params.model_dump(mode="json", by_alias=True))
    if not (project / "data").exists():
        (project / "data").symlink_to(root / "data")


def _stage(project: Path, name: str) -> None:
    """Run a stage in a process of its own; raises FrancaError with its last line if it fails."""
    # No server: the runs of cells are recorded in the study's results alone.
    environment = os.environ | {"DVC_ROOT": str(project), "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
    with (project / _LOG).open("ab") as output:
        command = [sys.executable, "-m", "franca", name]
        code = subprocess.run(
            command, cwd=project, env=environment, stdout=output, stderr=output, check=False
        ).returncode
    if code:
        lines = (project / _LOG).read_text(encoding="utf-8", errors="replace").split("\n")
        last = next((line for line in reversed(lines) if line.strip()), "no output")
        raise FrancaError(f"{name} ended with exit code {code}: {last}; see {project / _LOG}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a study's cells."""
    parser = argparse.ArgumentParser(prog="python -m franca.study.processes", description="Run the cells of a study.")
    add_arguments(parser)
    parser.add_argument("--parallel", type=int, default=1, metavar="N", help="cells at a time; default: 1")
    parser.add_argument("--folder", type=Path, required=True, help="gets a project folder for each cell")
    given = parser.parse_args(arguments)
    study, root = read_study(given.study), Path.cwd()
    cells = expand(study, root, *variables_of(given))
    if failed := run_cells(study, root, cells, given.parallel, given.folder.resolve()):
        raise FrancaError(f"{len(failed)} of {len(cells)} cells failed; run again to try them")


if __name__ == "__main__":
    run_command(main)
