"""Changed values of a flow run, and the checks of `franca submit` before it calls a server."""

import socket
from pathlib import Path

import pytest

from flows.quick import params_of
from flows.workspace import workspace
from franca import presets
from franca.cli import main
from franca.errors import FrancaError
from franca.params import load_params


def test_what_the_values_are_changed_in(project: Path) -> None:
    assert params_of("params.yaml", []) == load_params(Path("params.yaml"))
    assert params_of("photos-cpu", ["base.seed=3"]).base.seed == 3
    assert params_of("photos-cpu", []) == presets.load("photos-cpu")
    with pytest.raises(FrancaError, match="unknown key"):
        params_of("photos-cpu", ["base.sed=3"])


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["-S", "evaluate.knn_q=5"], "changed values: evaluate.knn_q: unknown key (value 5); did you mean knn_k?"),
        (["-S", "evaluate.knn_k"], "evaluate.knn_k: not of the form NAME=VALUE; an empty value is null"),
        (["--preset", "photos-cpu", "-S", "base.seed=x"], "changed values: base.seed: "),
    ],
)
def test_nothing_is_submitted_with_a_mistake(
    project: Path,
    arguments: list[str],
    line: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{server.getsockname()[1]}/api")
        assert main(["submit", *arguments]) == 2
        server.setblocking(False)
        with pytest.raises(BlockingIOError):  # nobody has connected
            server.accept()
    assert capsys.readouterr().err.startswith(f"franca: {line}")


def test_no_server(project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/api"
    monkeypatch.setenv("PREFECT_API_URL", url)
    assert main(["submit", "-S", "base.seed=1"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"franca: {url}: no Prefect server answers: ") and error.count("\n") == 1
    monkeypatch.setenv("PREFECT_API_URL", "")
    assert main(["submit"]) == 2
    assert capsys.readouterr().err == (
        "franca: PREFECT_API_URL: not set; export the address of a Prefect server's API\n"
    )


def test_keys_that_other_parameters_lack_or_add(project: Path) -> None:
    """A worktree's params.yaml says exactly what was asked for, also where mappings differ in their keys."""
    path = project / "params.yaml"
    path.write_text(path.read_text().replace("datasets: {}", "datasets: {old: {path: data, task: classification}}"))
    change = "datasets={new: {path: data, task: segmentation}}"
    params = params_of("params.yaml", [change, "base.mean=auto", "base.std=auto"])
    with pytest.raises(ZeroDivisionError), workspace(params, "name", print) as place:
        assert load_params(place.folder / "params.yaml") == params
        raise ZeroDivisionError
