"""The launcher examples, as far as they can be checked without a cluster; docs/scaling.md says what was run on one."""

import re
import subprocess
from pathlib import Path

import pytest

from franca import presets
from franca.params import read_yaml

EXAMPLES = Path(__file__).parents[2] / "docs/examples"


def test_slurm_example() -> None:
    script = EXAMPLES / "slurm.sh"
    subprocess.run(["bash", "-n", script], check=True)
    assert "-m franca pretrain\n" in script.read_text()


def test_slurm_example_keeps_the_users_interface(tmp_path: Path) -> None:
    """With stubs for the commands of a cluster, the job requeues itself only if the run asks for it."""
    for name, body in {
        "ip": "echo default via 10.0.0.1 dev bond0",
        "scontrol": 'case "$1" in show) echo node0;; *) echo "$@" >> requeued;; esac',
        "srun": 'env | grep _SOCKET_IFNAME= | sort; mkdir -p runs; [ "$STOP" ] && touch runs/requeue.json; exit 1',
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    slurm = {"SLURM_CPUS_PER_TASK": "96", "SLURM_JOB_NODELIST": "node[0-7]", "SLURM_NNODES": "8", "SLURM_JOB_ID": "7"}
    paths = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    for more, interface in (({}, "bond0"), ({"GLOO_SOCKET_IFNAME": "ib0", "STOP": "1"}, "ib0")):
        run = subprocess.run(
            ["bash", EXAMPLES / "slurm.sh"], cwd=tmp_path, env=paths | slurm | more, capture_output=True, text=True
        )
        assert run.returncode == 1 and not run.stderr
        assert run.stdout == f"GLOO_SOCKET_IFNAME={interface}\nNCCL_SOCKET_IFNAME={interface}\n"
        assert (tmp_path / "requeued").exists() == ("STOP" in more)


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
    environment = {variable["name"]: variable["value"] for variable in container["env"]}
    assert int(environment["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"]) < pod["terminationGracePeriodSeconds"]
    assert environment["GLOO_SOCKET_IFNAME"] == environment["NCCL_SOCKET_IFNAME"]


@pytest.mark.parametrize("name", ["slurm.sh", "pytorchjob.yaml"])
def test_the_examples_sizes_fit_the_presets(name: str) -> None:
    """Each GPU gets a whole number of KoLeo groups on the 8 and 12 machines that the examples name."""
    text = (EXAMPLES / name).read_text()
    machines = [int(number) for number in re.findall(r"(?:--nodes=|replicas: |, )(8|12)\b", text)]
    assert set(machines) == {8, 12}
    for preset, count in (("vitb14-in21k", 8), ("vitl14-in21k", 12), ("vitg14-in21k", 12), ("vitg14-laion", 12)):
        pretrain = presets.load(preset).pretrain
        assert pretrain.batch_size % (count * 8 * pretrain.losses.koleo_images) == 0
