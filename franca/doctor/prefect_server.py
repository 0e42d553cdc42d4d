"""The Prefect server: does it answer, is a worker there to execute its runs, and does it survive a restart.

Prefect itself takes seconds to import, so this asks the server's API.
"""

from collections.abc import Iterator
from importlib import metadata
from typing import Any

from franca.doctor.clock import compare_clocks
from franca.doctor.finding import Finding, ok, problem, warning
from franca.doctor.versions import compare_versions
from franca.prefect_api import api_address, api_headers, prefect_settings
from franca.web import Answer, NoAnswer, ask

CHECK = "Prefect"
POOL = "cpu"
"""The work pool of prefect.yaml."""
_START = "`make worker`, which also deploys the flows"


def check_prefect() -> Iterator[Finding]:
    """Yield findings about the server at PREFECT_API_URL, if one is set."""
    settings = prefect_settings()
    address = api_address(settings)
    if not address:
        yield ok(CHECK, "no server set (PREFECT_API_URL); flows then run with a temporary one")
        return
    server = _Server(address, api_headers(settings))
    try:
        version = server.ask("/admin/version")
        found = server.ask("/admin/settings")
    except NoAnswer as reason:
        yield problem(CHECK, f"{address}: {reason}", "start the server (`make prefect-ui`), or change PREFECT_API_URL")
        return
    if found.status in (401, 403):
        yield problem(
            CHECK, f"{address}: does not accept the password", "set PREFECT_API_AUTH_STRING to USER:PASSWORD"
        )
    elif found.status != 200 or not isinstance(found.content, dict):
        fix = "check PREFECT_API_URL: it ends in /api"
        yield problem(CHECK, f"{address}: status {found.status} from its API", fix)
    else:
        yield compare_versions(CHECK, address, str(version.content), metadata.version("prefect"))
        yield _leases(found.content)
        yield from _worker(server)
    yield compare_clocks(CHECK, found.ahead)


class _Server:
    """The API of a Prefect server."""

    def __init__(self, address: str, headers: dict[str, str]) -> None:
        self._address = address
        self._headers = headers

    def ask(self, path: str, body: Any = None) -> Answer:
        return ask(f"{self._address}{path}", self._headers, body)

    def count(self, state: str, pool: str) -> int:
        """Return how many flow runs of a work pool have a state of this name."""
        names = {"flow_runs": {"state": {"name": {"any_": [state]}}}, "work_pools": {"name": {"any_": [pool]}}}
        return int(self.ask("/flow_runs/count", names).content)


def _leases(settings: dict[str, Any]) -> Finding:
    check = "Prefect's leases"
    try:
        storage = str(settings["server"]["concurrency"]["lease_storage"])
    except (KeyError, TypeError):
        return ok(check, "the server does not say where it keeps them")
    if storage.endswith(".memory"):
        fix = (
            "set PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE=prefect.server.concurrency.lease_storage.filesystem "
            "for the server, or start it in the project"
        )
        return warning(check, "in the server's memory: if it restarts, running flows crash", fix)
    return ok(check, "outlive a restart of the server")


def _worker(server: _Server) -> Iterator[Finding]:
    """Yield findings about the work pool: a worker, late runs, and runs that wait though nothing runs."""
    check = "worker"
    try:
        workers = server.ask(f"/work_pools/{POOL}/workers/filter", {"workers": {"status": {"any_": ["ONLINE"]}}})
        if workers.status == 404:
            yield warning(check, f"the server has no work pool '{POOL}'; nothing is deployed", _START)
            return
        online = len(workers.content)
        late, waiting, running = (server.count(name, POOL) for name in ("Late", "AwaitingConcurrencySlot", "Running"))
    except (NoAnswer, TypeError, ValueError) as error:
        yield warning(check, f"the server did not say ({error})", "try again")
        return
    if not online:
        yield warning(check, f"none is online; {late} run{'s' * (late != 1)} late", _START)
    elif late:
        yield warning(check, f"{online} online, and {late} run{'s' * (late != 1)} late", "look at the worker's log")
    else:
        yield ok(check, f"{online} online; {running} running, {waiting} waiting")
    if waiting and not running:
        text = f"{waiting} waiting for a slot though nothing runs; a crashed run keeps its slot for up to 5 minutes"
        yield warning("slots", text, "wait; then `prefect global-concurrency-limit ls` shows who holds it")
