"""The training loop: steps, logging, online evaluation, checkpoints."""

from contextlib import closing

import torch
from tqdm import tqdm

from franca.advice import causes
from franca.data.store.prepared import Store
from franca.data.views.loader import StepDataset, StepLoader
from franca.errors import FrancaError, Stopped
from franca.models import FrancaModel, random_model
from franca.params import ResolvedParams
from franca.pretrain.checkpoint import Checkpoints, load_newest
from franca.pretrain.finite_check import give_up
from franca.pretrain.microbatch import Splitter, count_parts
from franca.pretrain.monitor import memory_gib
from franca.pretrain.network import head_parameters
from franca.pretrain.online import OnlineEvaluation, behind
from franca.pretrain.outputs import curve_steps
from franca.pretrain.parallel import Ranks, distribute, local_images, whole_weights
from franca.pretrain.prefetch import Ahead
from franca.pretrain.progress import Progress, traced
from franca.pretrain.run_folder import RunFolder, machine_facts
from franca.pretrain.schedules import make_schedules
from franca.pretrain.setup import choose_precision, compile_blocks, make_networks
from franca.pretrain.step import TrainStep
from franca.process import StopRequest


def train(
    params: ResolvedParams,
    store: Store,
    folder: RunFolder,
    mark: str,
    stop: StopRequest,
    ranks: Ranks,
    device: torch.device,
) -> FrancaModel:
    """Train to the end, from the run's newest checkpoint if it has one, and return the teacher's model."""
    runtime = params.runtime

    share = local_images(params, ranks)
    part_count = count_parts(len(share), params)
    precision = choose_precision(params.pretrain.precision, device)

    # models
    student, teacher = make_networks(params, device)
    if runtime.activation_checkpointing:
        student.backbone.set_grad_checkpointing()
    if runtime.compile:
        compile_blocks(student, teacher)
    run_student = distribute(student, teacher, runtime.parallel, precision, ranks, device)
    train_step = TrainStep(params, student, teacher, run_student, device, precision)
    meter = train_step.meter

    # data
    images = store.images("train")
    if len(images) < params.pretrain.batch_size:
        raise FrancaError(
            f"pretrain.batch_size: {params.pretrain.batch_size} is more than the {len(images)} training images"
        )
    dataset = StepDataset(images, store.dense("train"), params.base, params.pretrain, share, part_count)
    epoch_length = params.pretrain.epoch_length or len(images) // params.pretrain.batch_size
    schedules = make_schedules(params.pretrain, epoch_length)
    online = OnlineEvaluation(store, params, device, precision)
    online_steps = max(round(params.pretrain.knn_epochs * epoch_length), 1)
    point_steps = curve_steps(schedules.total)

    # resume
    start = 0
    checkpoints = Checkpoints(folder.checkpoints, runtime.keep_checkpoints, runtime.milestone_steps, ranks, device)
    state = train_step.state()
    if found := load_newest(folder.checkpoints, state, ranks, warn=tqdm.write):
        start, rest = found
        meter.load_state_dict(rest["meter"])
    if ranks.first:
        if start:
            tqdm.write(f"going on from the checkpoint of step {start} of {schedules.total}")
        facts = {"processes": ranks.count, "head_parameters": head_parameters(student)}
        folder.write_facts({"fingerprint": mark, **machine_facts(device, precision), **facts})
        folder.start_at(start)

    # Only the first process writes and warns, so only it needs the baselines.
    baselines = online.baselines() if ranks.first else {}

    # loop
    batches = Ahead(StepLoader(dataset, start, schedules.total, runtime.workers, pin=device.type == "cuda"))
    batches.raise_fault(ranks)
    progress = Progress(start, schedules.total, params.pretrain.batch_size, quiet=not ranks.first)
    split = Splitter(params.base, device)
    with (
        closing(batches),
        checkpoints,
        traced(runtime.profile_steps if ranks.first else 0, folder.path / "trace.json") as profiler,
    ):
        for it, batch in zip(range(start, schedules.total), batches, strict=True):
            done = it + 1
            last = done == schedules.total
            # Asked before the step, so that all ranks agree while they compute. A rank that cannot read its next batch
            # knows it here already; SIGTERM is answered at the end of this step or the next.
            asked = ranks.poll(lambda: bool(stop) or batches.fault is not None)

            torch.manual_seed(params.base.seed + it + ranks.rank * schedules.total)
            train_step(split(batch), schedules.at(it), done)

            # log
            progress.advance()
            if profiler:
                profiler.step()
            # What is logged may depend on `runtime`; the points of the curves are outputs and may not.
            logging = done % runtime.log_steps == 0 or last
            reading = done % point_steps == 0 or last
            measuring = done % online_steps == 0 or last
            if logging:
                batches.count_lost(ranks)
            stopping = asked() and not last
            saving = done % runtime.checkpoint_steps == 0 or last or stopping
            # Check before saving as well: a run resumed from this checkpoint could not tell that steps were skipped.
            if (logging or reading or measuring or saving) and (bad := train_step.finite.read()):
                checkpoints.wait()
                before = Checkpoints(folder.path / "nonfinite", 1, None, ranks, device)
                give_up(bad, dataset, before, state, folder, ranks)
            metrics: dict[str, float] = {}
            if reading:
                metrics = meter.read(ranks) | {
                    "train/lr": float(schedules.lr[it]),
                    "train/images_per_second": progress.rate,
                    "train/memory_gib": memory_gib(device),
                }
            if measuring:
                metrics |= online.measure(teacher) | baselines
            if ranks.first and metrics:
                folder.append(done, metrics)
            progress.show(metrics)
            if logging:
                progress.log(done, meter.loss() if ranks.first else 0.0)
            sentence = behind(metrics, done, schedules.total) if measuring else None
            if sentence and ranks.first and folder.first_warning():
                advice = causes(params, schedules.total, len(images), store.channels)
                tqdm.write(f"{sentence}; {advice}")

            # save
            if saving:
                checkpoints.save(done, state, {"meter": meter.state_dict(ranks)})
            if stopping:
                checkpoints.wait()
                batches.raise_fault(ranks)
                if ranks.first:
                    folder.ask_requeue(done)
                raise Stopped(f"stopped at step {done} of {schedules.total}; run again to go on from there")
    checkpoints.wait()
    progress.close()
    if ranks.first:
        folder.finish()
    model = random_model(params.base)
    model.backbone.load_state_dict(whole_weights(teacher.backbone))
    return model
