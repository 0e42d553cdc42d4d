"""Pretraining: the loop, and the stage around it."""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only
from tqdm import tqdm

from franca.data.loader import StepDataset, step_loader
from franca.data.store import Store
from franca.errors import FrancaError, Stopped
from franca.models import FrancaModel, load_model, random_model
from franca.models.model import normalize
from franca.params import Params
from franca.paths import PREPARED
from franca.pretrain.checkpoint import load_newest, save_checkpoint
from franca.pretrain.monitor import LossMeter, OnlineKnn, collapse_warning
from franca.pretrain.network import update_teacher
from franca.pretrain.objective import student_terms, teacher_targets, total_loss
from franca.pretrain.optimizer import clip_gradients, make_optimizer, set_rates
from franca.pretrain.outputs import write_outputs
from franca.pretrain.run_folder import RunFolder, fingerprint, machine_facts
from franca.pretrain.schedules import make_schedules
from franca.pretrain.setup import choose_precision, make_networks
from franca.process import StopRequest, listen_for_stop, sole_owner
from franca.runtime import choose_device, make_deterministic


def run(params: Params, on_start: Callable[[Path], object] | None = None) -> None:
    """The pretrain stage: prepared images in, `models/pretrained` and `results/pretrain` out; resumes its own run.

    `on_start` is told the run's folder before the first step.
    """
    stop = listen_for_stop()
    store = Store(PREPARED)
    mark = fingerprint(params, store.digest)
    folder = RunFolder(mark)
    with sole_owner(folder.path):
        if on_start:
            on_start(folder.path)
        model = train(params, store, folder, mark, stop) if params.pretrain.epochs else adopt(params, folder, mark)
        write_outputs(model, folder, mark)


def adopt(params: Params, folder: RunFolder, mark: str) -> FrancaModel:
    """The model of `pretrain.init` as it is: a run of no steps, so that it can go through the other stages."""
    folder.write_facts({"fingerprint": mark, **machine_facts(torch.device("cpu"), "fp32")})
    folder.start_at(0)
    folder.finish()
    return load_model(Path(str(params.pretrain.init)))


def train(params: Params, store: Store, folder: RunFolder, mark: str, stop: StopRequest) -> FrancaModel:
    """Train to the end, from the run's newest checkpoint if it has one, and return the teacher's model."""
    # models
    make_deterministic(params.runtime)
    device = choose_device(params.runtime)
    precision = choose_precision(params.pretrain.precision, device)
    student, teacher = make_networks(params, device)
    optimizer = make_optimizer(student, params.pretrain.optimizer)
    folder.write_facts({"fingerprint": mark, **machine_facts(device, precision)})

    # data
    images = store.images("train")
    if len(images) < params.pretrain.batch_size:
        raise FrancaError(
            f"pretrain.batch_size: {params.pretrain.batch_size} is more than the {len(images)} training images"
        )
    dataset = StepDataset(images, store.dense("train"), params.base, params.pretrain)
    epoch_length = params.pretrain.epoch_length or len(images) // params.pretrain.batch_size
    schedules = make_schedules(params.pretrain, epoch_length)
    online_knn = OnlineKnn(store, params.base, device)
    knn_steps = max(round(params.pretrain.knn_epochs * epoch_length), 1)

    # resume
    start, meter = 0, LossMeter(student.dino_head.levels)
    if found := load_newest(folder.checkpoints, warn=tqdm.write):
        start, state = found
        student.load_state_dict(state["student"])
        teacher.load_state_dict(state["teacher"])
        optimizer.load_state_dict(state["optimizer"])
        meter.load_state_dict(tree_map_only(Tensor, lambda x: x.to(device), state["meter"]))
        tqdm.write(f"going on from the checkpoint of step {start} of {schedules.total}")
    folder.start_at(start)

    # loop
    batches = step_loader(dataset, start, schedules.total, params.runtime.workers, pin=device.type == "cuda")
    progress = Progress(start, schedules.total, params.pretrain.batch_size)
    losses = params.pretrain.losses
    for it, batch in zip(range(start, schedules.total), batches, strict=True):
        # schedules
        torch.manual_seed(params.base.seed + it)
        set_rates(optimizer, schedules.lr[it], schedules.last_layer_lr[it], schedules.weight_decay[it])
        temperature = float(schedules.teacher_temperature[it])

        # teacher, student, loss
        global_crops, local_crops, masks = batch.crops(device)
        global_crops = normalize(global_crops, params.base.mean, params.base.std)
        local_crops = normalize(local_crops, params.base.mean, params.base.std)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            targets = teacher_targets(teacher, global_crops, masks, temperature, losses.sinkhorn_iterations)
            terms = student_terms(student, global_crops, local_crops, masks, targets, losses.student_temperature)
            loss = total_loss(terms, params.pretrain.crops.local_count, losses)

        # step
        loss.backward()
        norms = clip_gradients(student, params.pretrain.optimizer.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

        # moving average
        update_teacher(teacher, student, float(schedules.teacher_momentum[it]))

        # log
        meter.update(loss, terms, targets, norms)
        done = it + 1
        last = done == schedules.total
        progress.advance()
        if done % params.runtime.log_steps == 0 or last:
            metrics = meter.read()
            if not all(abs(value) < float("inf") for value in metrics.values()):
                raise FrancaError(f"the loss is not finite at step {done}; lower pretrain.optimizer.base_lr")
            metrics |= {"train/lr": float(schedules.lr[it]), "train/images_per_second": progress.rate}
            if online_knn.possible and (done % knn_steps < params.runtime.log_steps or last):
                metrics["val/knn_top1"] = online_knn.top1(teacher)
            folder.append(done, metrics)
            progress.show(done, metrics)

        # save
        if done % params.runtime.checkpoint_steps == 0 or last or stop:
            state = {
                "student": student.state_dict(),
                "teacher": teacher.state_dict(),
                "optimizer": optimizer.state_dict(),
                "meter": meter.state_dict(),
            }
            save_checkpoint(folder.checkpoints, done, state, params.runtime.keep_checkpoints)
            if stop and not last:
                raise Stopped(f"stopped at step {done} of {schedules.total}; run again to go on from there")
    progress.close()
    folder.finish()
    model = random_model(params.base)
    model.backbone.load_state_dict(teacher.backbone.state_dict())
    return model


class Progress:
    """A bar on a terminal, plain lines elsewhere: step, loss, online k-NN, images a second, time left."""

    LINE_SECONDS = 15.0
    WARM_UP_STEPS = 5

    def __init__(self, start: int, total: int, batch_size: int) -> None:
        self._bar = tqdm(
            total=total,
            initial=start,
            unit="step",
            desc="pretrain",
            dynamic_ncols=True,
            disable=not sys.stderr.isatty(),
        )
        self._batch_size, self._total = batch_size, total
        self._done = 0
        self._since = self._line_at = time.monotonic()
        self._knn = ""
        self._warning: str | None = None

    @property
    def rate(self) -> float:
        """Images a second since the first few steps."""
        counted = self._done - self.WARM_UP_STEPS
        return max(counted, 0) * self._batch_size / max(time.monotonic() - self._since, 1e-9)

    def advance(self) -> None:
        self._done += 1
        self._bar.update()
        if self._done == self.WARM_UP_STEPS:
            self._since = time.monotonic()

    def show(self, step: int, metrics: dict[str, float]) -> None:
        if "val/knn_top1" in metrics:
            self._knn = f"  k-NN on val {metrics['val/knn_top1']:.1f}"
        status = f"loss {metrics['train/loss']:.3f}{self._knn}  {self.rate:.0f} images/s"
        self._bar.set_postfix_str(status)
        if (warning := collapse_warning(metrics)) != self._warning:
            self._warning = warning
            if warning:
                tqdm.write(warning, file=sys.stderr)
        now = time.monotonic()
        if self._bar.disable and (now - self._line_at > self.LINE_SECONDS or step == self._total):
            self._line_at = now
            left = (self._total - step) * self._batch_size / max(self.rate, 1e-9)
            print(f"pretrain  step {step}/{self._total}  {status}  {left / 60:.1f} min left", flush=True)

    def close(self) -> None:
        self._bar.close()
