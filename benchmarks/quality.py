"""k-NN accuracy after equal time: Franca, Franca without nesting, and SimCLR and DINO built from lightly's blocks.

python -m benchmarks.quality --minutes 10 --seeds 3

Reads params.yaml and the prepared images of the checkout, so run `dvc repro prepare` first. All methods train the same
ViT on the same crops, with the optimizer and schedules of params.yaml. A training step of each is timed, in turns, and
each trains as many steps as fit into the given minutes. Finished cells are kept in `quality.json` and are not run
again; `QUALITY.md` is the page of all of them.
"""

import argparse
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from benchmarks.__main__ import machine
from benchmarks.quality_methods import METHODS, Method
from benchmarks.quality_page import write_page
from franca.data.store.prepared import ImageSet, SplitName, Store
from franca.data.store.transform import load_images
from franca.data.views.loader import StepDataset, StepLoader
from franca.files import read_json, write_json
from franca.models.model import normalize, random_model
from franca.params import ResolvedParams, load_params, resolve
from franca.paths import PARAMS, PREPARED
from franca.pretrain.microbatch import Microbatch, MicrobatchSplitter
from franca.pretrain.schedules import make_schedules
from franca.probes.knn import knn_predict
from franca.probes.pixels import pixel_features
from franca.runtime import choose_device, configure_torch
from franca.study.grid import digest

RESULTS = Path(__file__).with_name("quality.json")
ROUNDS, STEPS_PER_ROUND = 6, 5
"""A method is timed for some steps, then the next one; the fastest round counts, as other processes only slow it."""
RAW_PIXELS = "raw pixels"
BASELINES = ("random weights", RAW_PIXELS)
_BATCH = 256

Record = dict[str, Any]


class Setting:
    """Images, parameters and device of a checkout."""

    def __init__(self, params_file: Path) -> None:
        self._store = Store(PREPARED)
        params = resolve(load_params(params_file), lambda: self._store.channels)
        # One microbatch, since the contrastive loss of SimCLR needs the whole batch.
        self.params = params.model_copy(update={"runtime": params.runtime.model_copy(update={"microbatch": None})})
        self.device = choose_device(params.runtime)
        self.train = self._store.images("train")
        self.name = Path(params.prepare.source).name
        self.classes = len(self._store.manifest["classes"])

    def seeded(self, seed: int) -> ResolvedParams:
        """Return the parameters with another seed."""
        return self.params.model_copy(update={"base": self.params.base.model_copy(update={"seed": seed})})

    def batches(self, params: ResolvedParams, steps: int) -> Iterator[list[Microbatch]]:
        """Yield the batches of a run on the device."""
        dataset = StepDataset(self.train, self._store.dense("train"), params.base, params.pretrain)
        split = MicrobatchSplitter(params.base, self.device)
        loader = StepLoader(dataset, 0, steps, params.runtime.workers, pin=self.device.type == "cuda")
        with closing(iter(loader)) as loaded:
            for batch in loaded:
                yield split(batch)

    def scores(self, method: Method | str) -> dict[str, float]:
        """Return k-NN top-1 on val and test in percent, of class tokens or of raw pixels."""
        base = self.params.base
        model = random_model(base)
        if not isinstance(method, str):
            model.backbone.load_state_dict(method.backbone.state_dict())
        model = model.to(self.device)

        def features(images: ImageSet) -> tuple[torch.Tensor, torch.Tensor]:
            labels = torch.from_numpy(images.labels.astype("int64"))
            pixels = load_images(images, base.image_size, (labels >= 0).nonzero().flatten().tolist())
            rows = torch.cat([embed(part.to(self.device)) for part in pixels.split(_BATCH)])
            return rows, labels[labels >= 0].to(self.device)

        def embed(images: torch.Tensor) -> torch.Tensor:
            if method == RAW_PIXELS:
                return pixel_features(normalize(images.float() / 255, base.mean, base.std))
            return model(images).pooled

        rows, labels = features(self.train)
        found: dict[str, float] = {}
        splits: tuple[SplitName, ...] = ("val", "test")
        for split in splits:
            if not len(images := self._store.images(split)):
                continue
            queries, truth = features(images)
            shares = knn_predict(rows, labels, queries, self.classes, k=20, temperature=0.07)
            found[split] = 100 * float((shares.argmax(dim=1) == truth).float().mean())
        return found

    def group(self, minutes: float) -> Record:
        """Return what the cells of a comparison have in common."""
        chosen = {name: getattr(self.params, name).model_dump(mode="json") for name in ("base", "pretrain")}
        return {"data": self.name, "images": self._store.digest[:16], "params": digest(chosen), "minutes": minutes}


def time_methods(setting: Setting) -> dict[str, float]:
    """Return the seconds of a training step of each method."""
    methods = {name: make(setting.params, setting.device) for name, make in METHODS.items()}
    rates = make_schedules(setting.params.pretrain, 10).at(0)
    inputs = cycle(list(setting.batches(setting.params, STEPS_PER_ROUND)))
    fastest = dict.fromkeys(methods, float("inf"))
    for _ in range(ROUNDS):
        for name, method in methods.items():
            start = time.perf_counter()
            for step in range(1, STEPS_PER_ROUND + 1):
                method.train(next(inputs), rates, step)
            if setting.device.type == "cuda":
                torch.cuda.synchronize()
            fastest[name] = min(fastest[name], (time.perf_counter() - start) / STEPS_PER_ROUND)
    return fastest


def train(setting: Setting, name: str, seed: int, steps: int) -> Method:
    """Train a method for some steps from a seed."""
    params = setting.seeded(seed)
    method = METHODS[name](params, setting.device)
    epoch_length = max(len(setting.train) // params.pretrain.batch_size, 1)
    run = params.pretrain.model_copy(update={"epochs": steps / epoch_length})
    schedules = make_schedules(run, epoch_length)
    batches = setting.batches(params, steps)
    for iteration, microbatches in enumerate(tqdm(batches, f"{name}, seed {seed}", steps, mininterval=10)):
        torch.manual_seed(seed + iteration)
        method.train(microbatches, schedules.at(iteration), iteration + 1)
    return method


def measure(setting: Setting, minutes: float, seeds: int, methods: list[str]) -> None:
    """Run the cells that `quality.json` lacks; write it and the page after each."""
    records: list[Record] = read_json(RESULTS) if RESULTS.exists() else []
    group = setting.group(minutes)

    def own() -> list[Record]:
        return [record for record in records if record.items() >= group.items()]

    def add(found: Record) -> None:
        records.append(group | found)
        write_json(RESULTS, records)
        write_page(records)

    if not any("seconds" in record for record in own()):
        add({"seconds": time_methods(setting), "machine": machine()})
    seconds = next(record["seconds"] for record in own() if "seconds" in record)
    finished = {(record["method"], record["seed"]) for record in own() if "method" in record}
    for name in BASELINES:
        if (name, 0) not in finished:
            add({"method": name, "seed": 0, "steps": 0, "scores": setting.scores(name)})
    for seed in range(seeds):
        for name in methods:
            if (name, seed) not in finished:
                steps = max(round(60 * minutes / seconds[name]), 1)
                add(
                    {
                        "method": name,
                        "seed": seed,
                        "steps": steps,
                        "scores": setting.scores(train(setting, name, seed, steps)),
                    }
                )


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--params", type=Path, default=PARAMS, help="parameters")
    parser.add_argument("--minutes", type=float, default=10.0, help="time of a cell's training steps")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="which methods to train")
    arguments = parser.parse_args()
    setting = Setting(arguments.params)
    configure_torch(setting.params.runtime)
    measure(setting, arguments.minutes, arguments.seeds, arguments.methods)


if __name__ == "__main__":
    main()
