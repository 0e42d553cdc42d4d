"""Device of a process, and torch's settings as `runtime` asks for them. GPUs are patched into torch.cuda."""

import os
from collections.abc import Iterator

import pytest
import torch

from franca.errors import FrancaError
from franca.params import Runtime
from franca.pretrain import parallel
from franca.pretrain.setup import choose_precision
from franca.runtime import choose_device, configure_torch, tf32
from tests.conftest import MakeParams

LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with four GPUs and no launcher."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    for name in LAUNCHER:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Start without the variables that `configure_torch` sets, and undo its settings after the test."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    for name in ("CUBLAS_WORKSPACE_CONFIG", "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
        monkeypatch.setenv(name, "")  # else the variable would not be removed after the test
        monkeypatch.delenv(name)
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.allow_tf32
    yield
    cudnn.deterministic, cudnn.allow_tf32 = before
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)


def runtime(make: MakeParams, **changes: object) -> Runtime:
    return make({f"runtime.{name}": value for name, value in changes.items()}).runtime


@pytest.mark.usefixtures("gpus")
@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_a_launched_process_uses_the_gpu_of_its_local_rank(
    tiny_params: MakeParams, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    assert choose_device(runtime(tiny_params, device=device)) == torch.device("cuda", 0)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert choose_device(runtime(tiny_params, device=device)) == torch.device("cuda", 3)
    assert choose_device(runtime(tiny_params, device="cpu")) == torch.device("cpu")


@pytest.mark.usefixtures("gpus")
def test_more_processes_than_gpus_are_refused(tiny_params: MakeParams, monkeypatch: pytest.MonkeyPatch) -> None:
    params = runtime(tiny_params, device="cuda")
    with pytest.raises(FrancaError) as caught:
        parallel.launch(8, torch.device("cuda", 0))
    assert str(caught.value) == (
        "runtime.processes 8: this machine has 4 GPUs; set runtime.processes to 4,"
        " or start the run on several machines with torchrun"
    )
    monkeypatch.setenv("LOCAL_RANK", "4")
    with pytest.raises(FrancaError, match=r"^LOCAL_RANK 4: this machine has 4 GPUs; start at most 4 processes on it$"):
        choose_device(params)
    monkeypatch.delenv("LOCAL_RANK")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(
        FrancaError, match=r"^LOCAL_RANK: not set, although WORLD_SIZE is above 1; start the processes"
    ):
        choose_device(params)


@pytest.mark.usefixtures("gpus")
def test_as_many_processes_as_gpus_are_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda path, arguments: started.append(arguments))
    parallel.launch(4, torch.device("cuda", 0))
    parallel.launch(1, torch.device("cuda", 0))
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "4")
    parallel.launch(4, torch.device("cuda", 0))
    ((*_, option, module, franca),) = [arguments[: arguments.index("franca") + 1] for arguments in started]
    assert (option, module, franca) == ("--nproc-per-node=4", "-m", "franca")


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize("deterministic", ["strict", "off"])
def test_strict_and_off(tiny_params: MakeParams, deterministic: str) -> None:
    configure_torch(runtime(tiny_params, deterministic=deterministic, threads=2))
    strict = deterministic == "strict"
    assert torch.get_num_threads() == 2
    assert torch.are_deterministic_algorithms_enabled() == torch.backends.cudnn.deterministic == strict
    assert not torch.is_deterministic_algorithms_warn_only_enabled(), "flash attention would stay nondeterministic"
    assert os.environ.get("CUBLAS_WORKSPACE_CONFIG") == (":4096:8" if strict else None)
    assert not torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize("name", ["PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"])
def test_the_allocator_is_set_unless_the_user_has_set_it(
    tiny_params: MakeParams, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    configure_torch(runtime(tiny_params))
    assert os.environ["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"
    monkeypatch.delenv("PYTORCH_ALLOC_CONF")
    monkeypatch.setenv(name, "max_split_size_mb:512")
    configure_torch(runtime(tiny_params))
    assert os.environ[name] == "max_split_size_mb:512"
    assert len({"PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"} & set(os.environ)) == 1


@pytest.mark.usefixtures("restored")
def test_tf32_is_for_matrix_products_that_ask_for_it(tiny_params: MakeParams) -> None:
    configure_torch(runtime(tiny_params))
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    assert (matmul.allow_tf32, cudnn.allow_tf32) == (False, False)
    with tf32(True):
        assert (matmul.allow_tf32, cudnn.allow_tf32) == (True, False)
    assert (matmul.allow_tf32, cudnn.allow_tf32) == (False, False)


def test_bf16_is_chosen_only_if_it_is_native(monkeypatch: pytest.MonkeyPatch) -> None:
    def is_bf16_supported(including_emulation: bool = True) -> bool:
        return including_emulation  # as on a T4 or V100

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_bf16_supported)
    device = torch.device("cuda", 0)
    assert choose_precision("auto", device) == "fp32" and choose_precision("bf16", device) == "bf16"
