"""A tour of the whole system: `make tour`.

In a clone of this checkout it starts the servers, trains two small models, and goes through all that a team does with
them. It changes nothing in this checkout, and ends with a list of what was shown. Its folder keeps the pictures, the
pages and the servers' logs.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from docs.tour.pictures import BROWSER, take
from docs.tour.project import IMAGES, Project, unpack
from docs.tour.servers import Prefect, Servers, answers, free_port, wait

NEW_CLASS = "Highway"


class Tour:
    """The steps; each returns what it has shown in one line."""

    def __init__(self, folder: Path) -> None:
        mlflow, prefect, serving = (f"http://127.0.0.1:{free_port()}" for _ in range(3))
        self.mlflow, self.prefect, self.serving = mlflow, prefect, serving
        self.folder, self.pictures, self.servers = folder, folder / "pictures", Servers(folder)
        self.pictures.mkdir(parents=True)
        self.api = Prefect(f"{prefect}/api")
        self.project = Project(
            folder / "project",
            {
                "MLFLOW_TRACKING_URI": mlflow,
                "PREFECT_API_URL": f"{prefect}/api",
                "PREFECT_SERVER_UI_API_URL": f"{prefect}/api",
                "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
                "MLFLOW_DISABLE_TELEMETRY": "true",
                "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
                "DVC_NO_ANALYTICS": "1",
                "DO_NOT_TRACK": "1",
            },
        )

    def steps(self) -> list[Callable[[], str]]:
        """Return the steps in their order."""
        return [
            self.start_servers,
            self.train,
            self.train_with_changes,
            self.approve,
            self.roll_back,
            self.reproduce,
            self.drift,
            self.serve,
            self.examine,
        ]

    def start_servers(self) -> str:
        """Start MLflow, Prefect and a worker, which deploys the flows."""
        store = f"sqlite:///{self.folder}/mlflow.db"
        port = self.mlflow.rpartition(":")[2]
        options = ["--backend-store-uri", store, "--artifacts-destination", str(self.folder / "artifacts")]
        self._start("mlflow", "mlflow", "server", "--workers", "1", "--port", port, *options)
        port = self.prefect.rpartition(":")[2]
        self._start("prefect", "prefect", "server", "start", "--host", "127.0.0.1", "--port", port)
        wait("MLflow", lambda: answers(f"{self.mlflow}/health"))
        wait("Prefect", lambda: answers(f"{self.prefect}/api/health"))
        self._start("worker", "flows/worker.sh")
        wait("the deployments", lambda: self.api.deployment("promote/champion"))
        return f"MLflow at {self.mlflow}, Prefect at {self.prefect}, and a worker that has deployed the flows"

    def train(self) -> str:
        """Run the pipeline by its deployment, with params.yaml as it is."""
        run = self.api.start("pipeline/manual", {})
        self._picture("prefect_run_running", f"{self.prefect}/runs/flow-run/{run}")
        self._expect(self.api.end(run), "Completed")
        self._picture("prefect_runs", f"{self.prefect}/runs")
        self._picture("mlflow_version", f"{self.mlflow}/#/models/franca/versions/1")
        receipt = json.loads((self.project.folder / "results/register/receipt.json").read_text())
        self.run_id = receipt["run_id"]
        self._expect(self._champion(), "1")
        return "a run of pipeline/manual: images to a registered model, version 1, champion"

    def train_with_changes(self) -> str:
        """Submit a run with a changed value, of which the model has to be approved."""
        self.project.set("register.promotion=manual")
        said = self.project.franca("submit", "-S", "disentangle.rounds=1")
        run = said.strip().rpartition("/")[2]
        self._expect(self.api.end(run), "Completed")
        self._expect(self._champion(), "1")
        return "`franca submit -S disentangle.rounds=1`: version 2, which passes its gates and waits for approval"

    def approve(self) -> str:
        """Answer the form of the flow that the run has started for its version."""
        run = self.api.suspended()
        self._picture("prefect_form", f"{self.prefect}/runs/flow-run/{run}")
        self.api.answer(run, version="2", decision="approve", name="guide", reason="one round is enough")
        self._expect(self.api.end(run), "Completed")
        self._expect(self._champion(), "2")
        return "the flow asked in a form, somebody approved, version 2 is champion"

    def roll_back(self) -> str:
        """Take the second version back."""
        self.project.franca("rollback", "--reason", "the first one had two rounds")
        self._expect(self._champion(), "1")
        lines = [line for line in self.project.franca("history").splitlines() if not line.startswith(" ")]
        print("\n".join(f"    {line}" for line in lines))
        return f"`franca rollback`: version 1 again; `franca history` has {len(lines)} entries"

    def reproduce(self) -> str:
        """Repeat the first run from its ID."""
        verdict = self.project.franca("reproduce", self.run_id).strip().splitlines()[-1]
        return f"`franca reproduce {self.run_id}`: {verdict}"

    def drift(self) -> str:
        """Compare new images with the training images: held-out ones, then a class that the model has not seen."""
        model = "models:/franca@champion"
        self.project.franca("drift", str(self.project.held_out), "--model", model, "-o", str(self.folder / "same"))
        strange = self.folder / "strange"
        unpack(IMAGES / f"test/{NEW_CLASS}.tar", strange)
        self.project.franca("drift", str(strange), "--model", model, "-o", str(self.folder / "other"), code=4)
        self._picture("drift", (self.folder / "other/drift.html").as_uri())
        return f"`franca drift`: none in held-out images, exit code 4 for images of {NEW_CLASS}"

    def serve(self) -> str:
        """Serve the champion, and move the alias while it runs."""
        port = self.serving.rpartition(":")[2]
        self._start("serving", sys.executable, "-m", "franca", "serve", "models:/franca@champion", "--port", port)
        wait("the server", lambda: answers(f"{self.serving}/health/ready"))
        picture = next(path for path in sorted((self.folder / "strange").rglob("*")) if path.is_file())
        answer = (
            httpx.post(f"{self.serving}/embed", content=picture.read_bytes(), timeout=60).raise_for_status().json()
        )
        before = answer["version"]
        self.project.franca("rollback", "--to", "2", "--reason", "to see the server follow")
        wait("the new version", lambda: httpx.get(f"{self.serving}/version").json()["version"] != before)
        return "`franca serve`: an embedding of a picture; the server followed the alias from version 1 to 2"

    def examine(self) -> str:
        """Ask whether all is well."""
        lines = self.project.franca("doctor").splitlines()
        print("\n".join(f"    {line}" for line in lines))
        return f"`franca doctor`: {len(lines)} checks, no problem"

    def _start(self, name: str, *command: str) -> None:
        self.servers.start(name, list(command), self.project.folder, self.project.environment)

    def _champion(self) -> str:
        address = f"{self.mlflow}/api/2.0/mlflow/registered-models/alias"
        found = httpx.get(address, params={"name": "franca", "alias": "champion"}, timeout=60)
        return str(found.raise_for_status().json()["model_version"]["version"])

    def _picture(self, name: str, address: str) -> None:
        take(address, self.pictures / f"{name}.png")

    @staticmethod
    def _expect(found: str, expected: str) -> None:
        if found != expected:
            raise RuntimeError(f"expected {expected}, found {found}")


def main() -> int:
    """Go through all steps; return 1 at the first one that fails."""
    parser = argparse.ArgumentParser(prog="make tour", description=__doc__.partition("\n\n")[0] if __doc__ else None)
    parser.add_argument("--folder", type=Path, help="new folder for everything (default: a temporary one)")
    folder = parser.parse_args().folder or Path(tempfile.mkdtemp(prefix="franca-tour-"))
    folder = folder.absolute()
    print(f"The tour happens in {folder}", flush=True)
    shown: list[str] = []
    tour = Tour(folder)
    try:
        for number, step in enumerate(tour.steps(), start=1):
            print(f"{number}. {(step.__doc__ or '').strip()}", flush=True)
            start = time.monotonic()
            shown.append(step())
            print(f"   {time.monotonic() - start:.0f} s: {shown[-1]}", flush=True)
    except (RuntimeError, TimeoutError, OSError, httpx.HTTPError, KeyError, subprocess.SubprocessError) as error:
        print(f"tour: step {len(shown) + 1}: {error}\nlogs: {folder}/*.log", file=sys.stderr)
        return 1
    finally:
        tour.servers.stop()
    print("\nShown:")
    print("\n".join(f"- {line}" for line in shown))
    made = sorted(path.name for path in tour.pictures.glob("*.png"))
    print(f"Pictures in {tour.pictures}: {', '.join(made)}" if BROWSER else "No pictures: there is no Chromium")
    return 0


if __name__ == "__main__":
    sys.exit(main())
