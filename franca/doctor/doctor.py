"""The `franca doctor` command: look at what Franca needs, and say what to type where something is wrong."""

import json
import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from franca.doctor.data import check_data
from franca.doctor.disk import check_disk
from franca.doctor.dvc_remotes import check_remotes
from franca.doctor.dvc_state import cache_folder, read_config
from franca.doctor.finding import Finding, ok, problem
from franca.doctor.git_state import check_git
from franca.doctor.gpu import check_gpu
from franca.doctor.locks import check_locks
from franca.doctor.mlflow_server import check_mlflow
from franca.doctor.packages import check_packages
from franca.doctor.prefect_server import check_prefect
from franca.errors import FrancaError, Unhealthy
from franca.params import load_params
from franca.paths import runs_root

_LOGIN = re.compile(r"(?<=://)[^/\s@]*@")


def run(params: Path, as_json: bool) -> None:
    """Print a line for each finding. Changes nothing, and sends nothing but questions to the servers that are set.

    Args:
        params: The parameter file.
        as_json: Print JSON.

    Raises:
        Unhealthy: There is a problem.
    """
    found = examine(runs_root().parent, params)
    if as_json:
        print(json.dumps([finding._asdict() for finding in found], indent=2))
    else:
        print("\n".join(map(line, found)))
    if problems := sum(finding.level == "problem" for finding in found):
        raise Unhealthy(f"doctor: {problems} problem{'s' * (problems != 1)}; each line above says what to do")


def examine(root: Path, params: Path) -> list[Finding]:
    """Return the findings of all checks, which run at the same time.

    Args:
        root: The project.
        params: The parameter file.
    """
    checks: list[tuple[str, Callable[[], Iterable[Finding]]]] = [
        ("MLflow", check_mlflow),
        ("Prefect", check_prefect),
        ("DVC remotes", lambda: check_remotes(root)),
        ("data", lambda: check_data(root)),
        ("params.yaml", lambda: _params(params)),
        ("git", lambda: check_git(root)),
        ("locks", lambda: check_locks(root)),
        ("disk", lambda: check_disk(root, cache_folder(root, read_config(root)))),
        ("GPU", check_gpu),
        ("packages", lambda: check_packages(root)),
    ]
    with ThreadPoolExecutor(len(checks)) as pool:
        return [
            without_login(finding) for part in pool.map(lambda check: _findings(*check), checks) for finding in part
        ]


def line(finding: Finding) -> str:
    """Return a finding as a line for the terminal."""
    text = f"{finding.level:8} {finding.check}: {finding.text}"
    return f"{text}; {finding.fix}" if finding.fix else text


def without_login(finding: Finding) -> Finding:
    """Return the finding on one line, without user and password of any address in it."""
    text, fix = (_LOGIN.sub("", " ".join(part.split())) for part in (finding.text, finding.fix))
    return finding._replace(text=text, fix=fix)


def _findings(name: str, check: Callable[[], Iterable[Finding]]) -> list[Finding]:
    try:
        return list(check())
    except Exception as error:  # the other checks still say what they found
        return [problem(name, f"the check itself failed ({type(error).__name__}: {error})", "please report this")]


def _params(path: Path) -> list[Finding]:
    if not path.exists():
        return [problem("params", f"{path}: no such file", "`franca init FOLDER` writes one, or change the folder")]
    try:
        load_params(path)
    except FrancaError as error:
        first, _, rest = str(error).partition("\n")
        more = f" and {len(rest.splitlines())} more faults" if rest else ""
        return [problem("params", f"{first}{more}", "`franca params check` lists all")]
    return [ok("params", f"{path}: valid")]
