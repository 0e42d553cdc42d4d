import subprocess
from pathlib import Path

import pytest

from flows.commands import dvc
from flows.workspace import workspace
from franca.errors import FrancaError
from franca.params import Params, load_params


def edited(params: Params, section: str, **values: object) -> Params:
    return params.model_copy(update={section: getattr(params, section).model_copy(update=values)})


def quiet(line: str) -> None:
    pass


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], check=True, capture_output=True, text=True).stdout


def test_parameters_of_the_file_run_in_the_project(project: Path) -> None:
    with workspace(load_params(Path("params.yaml")), "name", quiet) as place:
        assert place == (project, {})


def test_other_parameters_run_in_a_worktree_and_the_project_is_unchanged(project: Path) -> None:
    """The worktree has uncommitted changes and the comments of params.yaml; it is deleted even if the run fails."""
    with (project / "stage.py").open("a") as file:
        file.write("# a change that is not committed\n")
    before = git("status", "--porcelain")
    params = edited(load_params(Path("params.yaml")), "evaluate", knn_k=7, linear_c=[1e-05, 2.0])
    with pytest.raises(ZeroDivisionError), workspace(params, "a name/of one", quiet) as place:
        assert place.env["DVC_ROOT"] == str(project)
        assert place.env["DVC_EXP_NAME"] == "a-name-of-one"
        assert load_params(place.folder / "params.yaml") == params
        written = (place.folder / "params.yaml").read_text().splitlines()
        assert written[0] == "# What the tests run with." and "  init: null" in written
        assert (place.folder / "stage.py").read_bytes() == (project / "stage.py").read_bytes()
        assert dvc(["cache", "dir"], place.folder, quiet) == [str(project / ".dvc/cache")]
        raise ZeroDivisionError
    assert not place.folder.exists()
    assert git("worktree", "list").count("\n") == 1
    assert git("status", "--porcelain") == before


def test_a_project_without_git_is_a_one_line_error(project: Path) -> None:
    (project / ".git").rename(project / "elsewhere")
    params = edited(load_params(Path("params.yaml")), "evaluate", knn_k=7)
    with pytest.raises(FrancaError, match="git worktree: fatal: not a git repository"), workspace(params, "n", quiet):
        pass
