"""The launchers' examples, as far as that goes without a cluster; docs/scaling.md tells what was run on one."""

import subprocess
from pathlib import Path

from franca.params import read_yaml

EXAMPLES = Path(__file__).parents[2] / "docs/examples"


def test_slurm_example() -> None:
    script = EXAMPLES / "slurm.sh"
    subprocess.run(["bash", "-n", script], check=True)
    assert "-m franca pretrain\n" in script.read_text()


def test_pytorchjob_example() -> None:
    """Its pods find each other, and have torchrun wait for the checkpoint for less than Kubernetes does."""
    spec = read_yaml(EXAMPLES / "pytorchjob.yaml")["spec"]
    assert spec["elasticPolicy"]["rdzvBackend"] == "c10d"
    worker = spec["pytorchReplicaSpecs"]["Worker"]
    assert worker["restartPolicy"] == "OnFailure"
    pod = worker["template"]["spec"]
    (container,) = pod["containers"]
    assert container["command"] == ["torchrun", "-m", "franca", "pretrain"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == int(spec["nprocPerNode"])
    patience = {variable["name"]: int(variable["value"]) for variable in container["env"]}
    assert patience["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] < pod["terminationGracePeriodSeconds"]
