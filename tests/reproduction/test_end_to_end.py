"""A short training is registered, then reproduced from its run ID in a worktree: the same bytes."""

from pathlib import Path

import pytest

from franca.files import read_json
from franca.yaml_file import read_yaml
from tests.reproduction.conftest import dvc, franca, run


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_a_registered_run_is_reproduced_from_its_id(project: Path) -> None:
    # Not committed: the run has to record it.
    with (project / "franca/stages/pretrain.py").open("a") as file:
        file.write("# a change that is not committed\n")
    dvc(project, "repro")
    receipt = read_json(project / "results/register/receipt.json")
    before = run(project, "git", "status", "--porcelain")
    lock = (project / "dvc.lock").read_bytes()

    said = franca(project, "reproduce", receipt["run_id"], "--output", "verdict.json")
    verdict = read_json(project / "verdict.json")
    assert verdict["equal"] and verdict["weights"] and verdict["scores"] and all(verdict["pictures"].values())
    assert "reproduced" in said
    (project / "verdict.json").unlink()
    assert run(project, "git", "status", "--porcelain") == before
    assert run(project, "git", "worktree", "list").count("\n") == 1

    # The results in another clone: nothing runs but register, and dvc.lock stays as it is.
    run(project, "git", "add", "--all")
    run(project, "git", "commit", "--quiet", "--message", "results")
    clone = project.parent / "clone"
    run(project, "git", "clone", "--quiet", str(project), str(clone))
    cache = str(project / ".dvc/cache")
    dvc(clone, "cache", "dir", "--local", cache)
    dvc(clone, "checkout", "--quiet")
    said = dvc(clone, "repro")
    assert "Running stage 'pretrain'" not in said and "Running stage 'register'" in said
    assert (clone / "dvc.lock").read_bytes() == lock
    assert run(clone, "git", "status", "--porcelain") == ""
    assert yaml_outs(clone, "register") == []


def yaml_outs(folder: Path, stage: str) -> list[object]:
    return list(read_yaml(folder / "dvc.lock")["stages"][stage].get("outs", []))
