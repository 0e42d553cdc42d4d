"""The training loop: steps, logging, online evaluation, checkpoints."""

from contextlib import closing

import torch
from tqdm import tqdm

from franca.advice import causes
from franca.data.store.prepared import Store
from franca.data.views.loader import StepDataset, StepLoader, worker_deaths_as_errors
from franca.errors import FrancaError, Stopped
from franca.models import FrancaModel, random_model
from franca.params import ResolvedParams
from franca.pretrain.checkpoint import Checkpoints, load_newest
from franca.pretrain.finite_check import abort_nonfinite
from franca.pretrain.microbatch import MicrobatchSplitter, count_microbatches
from franca.pretrain.monitor import memory_gib
from franca.pretrain.network import head_parameters
from franca.pretrain.online import OnlineEvaluation, behind
from franca.pretrain.outputs import curve_steps
from franca.pretrain.parallel import Ranks, distribute, local_images, whole_weights
from franca.pretrain.prefetch import Prefetch
from franca.pretrain.progress import TrainingProgress, traced
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
    """Train to the end, from the run's newest checkpoint if it has one, and return the teacher as a model.

    Args:
        params: All parameters.
        store: The prepared images.
        folder: The run's folder.
        mark: The run's fingerprint.
        stop: Becomes true when the run should stop early.
        ranks: The processes that train together; each of them calls this.
        device: The device of this process.

    Raises:
        FrancaError: The parameters do not fit the data or the processes, images became unreadable, a checkpoint could
            not be written, or the loss is not finite.
        Stopped: `stop` became true; a checkpoint of the last step is on disk.
    """
    trainer = Trainer(params, store, folder, ranks, device)
    start = trainer.resume(mark)
    trainer.run(start, stop)
    # Only the teacher's backbone is the result; if it is sharded, all ranks gather it together.
    model = random_model(params.base)
    model.backbone.load_state_dict(whole_weights(trainer.teacher.backbone))
    return model


class Trainer:
    """One process of a run: networks, data and everything else that lives as long as the run."""

    def __init__(
        self, params: ResolvedParams, store: Store, folder: RunFolder, ranks: Ranks, device: torch.device
    ) -> None:
        self.params, self.store, self.folder, self.ranks, self.device = params, store, folder, ranks, device
        runtime, pretrain = params.runtime, params.pretrain
        share = local_images(params, ranks)
        self.precision = choose_precision(pretrain.precision, device)

        student, self.teacher = make_networks(params, device)
        if runtime.activation_checkpointing:
            student.backbone.set_grad_checkpointing()
        if runtime.compile:
            compile_blocks(student, self.teacher)
        run_student = distribute(student, self.teacher, runtime.parallel, self.precision, ranks, device)
        # After sharding, which replaces the parameters that the optimizer must know.
        self.train_step = TrainStep(params, student, self.teacher, run_student, device, self.precision)
        self.state = self.train_step.state()
        self.meter = self.train_step.meter

        images = store.images("train")
        if len(images) < pretrain.batch_size:
            raise FrancaError(
                f"pretrain.batch_size: {pretrain.batch_size} is more than the {len(images)} training images; lower it"
                " or add images"
            )
        # The loader splits the masks and finds the masked patches: on a GPU, `nonzero` would make the host wait.
        count = count_microbatches(len(share), params)
        self.dataset = StepDataset(images, store.dense("train"), params.base, pretrain, share, count)
        self.split = MicrobatchSplitter(params.base, device)
        self.train_images = len(images)
        epoch_length = pretrain.epoch_length or len(images) // pretrain.batch_size
        self.schedules = make_schedules(pretrain, epoch_length)
        self.online = OnlineEvaluation(store, params, device, self.precision)
        self.online_steps = max(round(pretrain.knn_epochs * epoch_length), 1)
        self.point_steps = curve_steps(self.schedules.total)
        self.checkpoints = Checkpoints(
            folder.checkpoints, runtime.keep_checkpoints, runtime.milestone_steps, ranks, device
        )

    def resume(self, mark: str) -> int:
        """Load the newest checkpoint if there is one; return the number of steps done."""
        start = 0
        if found := load_newest(self.folder.checkpoints, self.state, self.ranks, warn=tqdm.write):
            start, rest = found
            self.meter.load_state_dict(rest["meter"])
        if self.ranks.first:
            if start:
                tqdm.write(f"resuming from the checkpoint of step {start} of {self.schedules.total}")
            facts = {"processes": self.ranks.count, "head_parameters": head_parameters(self.train_step.student)}
            self.folder.write_facts({"fingerprint": mark, **machine_facts(self.device, self.precision), **facts})
            self.folder.start_at(start)
        return start

    def run(self, start: int, stop: StopRequest) -> None:
        """Take all steps after `start`; log, evaluate and save between them."""
        runtime, ranks, total = self.params.runtime, self.ranks, self.schedules.total
        # Only the first process writes and warns, so only it needs the baselines.
        self.baselines = self.online.baselines() if ranks.first else {}
        pin = self.device.type == "cuda"
        batches = Prefetch(StepLoader(self.dataset, start, total, runtime.workers, pin=pin))
        batches.raise_fault(ranks)
        self.progress = TrainingProgress(start, total, self.params.pretrain.batch_size, quiet=not ranks.first)
        profile_steps = runtime.profile_steps if ranks.first else 0
        with (
            worker_deaths_as_errors(),
            closing(batches),
            self.checkpoints,
            traced(profile_steps, self.folder.path / "trace.json") as profiler,
        ):
            # A step's batch is a function of the seed and the iteration, so the loader starts at `start`.
            for iteration, batch in zip(range(start, total), batches, strict=True):
                step = iteration + 1
                last = step == total
                # Asked before the step, so that the all-reduce runs while all ranks compute. A rank that cannot read
                # its next batch knows it already; SIGTERM takes effect after this step or the next.
                stop_requested = ranks.poll(lambda: bool(stop) or batches.fault is not None)

                # Seeded in each step, so that a resumed run draws the same numbers; ranks draw different ones.
                torch.manual_seed(self.params.base.seed + iteration + ranks.rank * total)
                self.train_step(self.split(batch), self.schedules.at(iteration), step)
                self.progress.advance()
                if profiler:
                    profiler.step()

                # `runtime` may decide when to log, but not the points of the curves, which are outputs.
                logging = step % runtime.log_steps == 0 or last
                reading = step % self.point_steps == 0 or last
                evaluating = step % self.online_steps == 0 or last
                if logging:
                    # A collective, so not in every step. Images that other ranks cannot read count too.
                    batches.count_lost(ranks)
                stopping = stop_requested() and not last
                saving = step % runtime.checkpoint_steps == 0 or last or stopping
                # Check before saving as well: a run resumed from this checkpoint could not tell that steps were
                # skipped. Not in every step: the host would wait for the GPU.
                if logging or reading or evaluating or saving:
                    self._check_finite()
                metrics = self._record(step, reading, evaluating)
                if logging:
                    self.progress.log(step, self.meter.loss() if ranks.first else 0.0)
                if evaluating:
                    self._warn_if_behind(step, metrics)
                if saving:
                    # After the reading, which a run resumed from this checkpoint does not repeat. The meter's sums are
                    # those of all ranks, so that another number of ranks can continue them.
                    self.checkpoints.save(step, self.state, {"meter": self.meter.state_dict(ranks)})
                if stopping:
                    self._stop(step, batches)
        self.checkpoints.wait()
        self.progress.close()
        if ranks.first:
            self.folder.finish()

    def _check_finite(self) -> None:
        """End the run if the gradients of a step were not finite; waits for the device."""
        if bad := self.train_step.finite.read():
            # Two threads that write cannot share a process group.
            self.checkpoints.wait()
            checkpoints = Checkpoints(self.folder.path / "nonfinite", 1, None, self.ranks, self.device)
            abort_nonfinite(bad, self.dataset, checkpoints, self.state, self.folder, self.ranks)

    def _record(self, step: int, reading: bool, evaluating: bool) -> dict[str, float]:
        """Read the meter, evaluate the teacher, or both; append the metrics to metrics.jsonl and return them."""
        metrics: dict[str, float] = {}
        if reading:
            metrics = self.meter.read(self.ranks) | {
                "train/lr": float(self.schedules.lr[step - 1]),
                "train/images_per_second": self.progress.rate,
                "train/memory_gib": memory_gib(self.device),
            }
        if evaluating:
            metrics |= self.online.measure(self.teacher) | self.baselines
        if self.ranks.first and metrics:
            self.folder.append(step, metrics)
        self.progress.show(metrics)
        return metrics

    def _warn_if_behind(self, step: int, metrics: dict[str, float]) -> None:
        """Warn once in a run that the teacher is not better than its baselines."""
        sentence = behind(metrics, step, self.schedules.total)
        if sentence and self.ranks.first and self.folder.first_warning():
            channels = self.store.channels
            advice = causes(self.params, self.schedules.total, self.train_images, channels)
            tqdm.write(f"{sentence}; {advice}")

    def _stop(self, step: int, batches: Prefetch) -> None:
        """End the run early, after its checkpoint is on disk."""
        self.checkpoints.wait()
        batches.raise_fault(self.ranks)
        if self.ranks.first:
            self.folder.ask_requeue(step)
        raise Stopped(f"stopped at step {step} of {self.schedules.total}; run again to resume")
