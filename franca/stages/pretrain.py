"""The pretrain stage: reads `prepared`, writes `models/pretrained` and `results/pretrain`."""

from collections.abc import Callable
from pathlib import Path

import torch
from tqdm import tqdm

from franca.data.store.prepared import Store
from franca.models import FrancaModel, load_model
from franca.params import Params, resolve
from franca.paths import PREPARED
from franca.plan.report import check_memory
from franca.pretrain.loop import train
from franca.pretrain.outputs import write_outputs
from franca.pretrain.parallel import joined, launch
from franca.pretrain.peers import peers_watched
from franca.pretrain.run_folder import RunFolder, fingerprint, machine_facts
from franca.pretrain.setup import choose_precision
from franca.process import listen_for_stop, lock_folder
from franca.runtime import choose_device, configure_torch


def run(params: Params, on_start: Callable[[Path], object] | None = None) -> None:
    """Run the stage; resume if this run was interrupted before.

    Args:
        params: All parameters. `pretrain.epochs` 0 passes the model of `pretrain.init` on without training.
        on_start: Called by the first process with the run's folder before the first step.
    """
    configure_torch(params.runtime)
    device = choose_device(params.runtime)
    launch(params.runtime.processes, device)
    stop = listen_for_stop()
    with joined(device) as ranks:
        store = Store(PREPARED)
        resolved = resolve(params, lambda: store.channels)
        mark = fingerprint(resolved, store.digest)
        folder = RunFolder(mark)
        with lock_folder(folder.path, ranks.first), peers_watched(folder.checkpoints, ranks):
            folder.forget_requeue()
            if on_start and ranks.first:
                on_start(folder.path)
            if params.pretrain.epochs:
                if device.type == "cuda":
                    precision = choose_precision(params.pretrain.precision, device)
                    check_memory(params, ranks, precision, len(store.images("train")), tqdm.write)
                model = train(resolved, store, folder, mark, stop, ranks, device)
            else:
                model = skip_training(params, folder, mark)
            if ranks.first:
                write_outputs(model, folder, mark)


def skip_training(params: Params, folder: RunFolder, mark: str) -> FrancaModel:
    """Record a run of zero steps and return the model of `pretrain.init`, for the stages after this one."""
    folder.write_facts({"fingerprint": mark, **machine_facts(torch.device("cpu"), "fp32")})
    folder.start_at(0)
    folder.finish()
    return load_model(Path(str(params.pretrain.init)))
