"""`python -m benchmarks.large_sets [--images N] [--gigabytes G]`: evaluation at the size of ImageNet-1k.

Time and memory of k-NN, the linear probe and RASA on made-up features; written to `LARGE_SETS.md`. Each runs in a
process of its own that may not allocate more than G gigabytes. Parts that take hours are measured in part, and the
table says which.
"""

import argparse
import multiprocessing
import resource
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.__main__ import machine
from benchmarks.memory import anonymous, resident
from benchmarks.tables import table
from franca.evaluation.methods import logistic
from franca.evaluation.methods.knn_votes import knn_classes
from franca.feature_files import BLOCK, mapped_zeros
from franca.files import write_bytes
from franca.params import Disentangle
from franca.rasa import BATCH, grid_positions, learn_planes

RESULTS = Path(__file__).with_name("LARGE_SETS.md")
IMAGES, QUERIES, CLASSES, WIDTH = 1_281_167, 50_000, 1000, 768
RASA_IMAGES, GRID, ROUNDS, EPOCHS = 10_000, 16, 9, 5
"""Of the preset vitb14-in21k."""
MEASURED_QUERIES = 2048
"""Val images that k-NN classifies here; the time for all is in proportion."""
EVALUATIONS = 65
"""Evaluations of loss and gradient for one regularization strength, about: 50 iterations with their line searches."""


def made_up(images: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return features (N, D) in a mapped file, noise around a mean for each class, and labels (N,)."""
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(CLASSES, WIDTH, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(CLASSES, (images,), generator=generator)
    features, noise = mapped_zeros(images, WIDTH), torch.randn(BLOCK, WIDTH, generator=generator)
    for part, of in zip(features.split(BLOCK), labels.split(BLOCK), strict=True):
        # The same noise in another order: drawing a billion numbers would take longer than what is measured.
        order = torch.randperm(BLOCK, generator=generator)[: len(part)]
        torch.add(means[of], noise[order], alpha=3, out=part)
    return features, labels


def run_knn(images: int) -> tuple[str, float, float]:
    """Measure weighted k-NN with k 10, 20, 100 and 200; return what was measured, its seconds, and those for all."""
    (train, labels), (queries, truth) = made_up(images, 1), made_up(MEASURED_QUERIES, 2)
    start = time.process_time()
    votes = knn_classes(train, labels, queries, CLASSES, [10, 20, 100, 200], 0.07)
    seconds = time.process_time() - start
    right = float((votes[20].classes == truth).double().mean())
    about = f"{MEASURED_QUERIES:,} of {QUERIES:,} val images, {100 * right:.0f} % right"
    return about, seconds, seconds * QUERIES / MEASURED_QUERIES


def run_linear(images: int) -> tuple[str, float, float]:
    """Measure logistic regression for one C: the principal axes, and one evaluation of loss and gradient."""
    train, labels = made_up(images, 1)
    start = time.process_time()
    axes = logistic.principal_axes(train, labels.device)
    once = time.process_time() - start
    weight, bias = torch.zeros(CLASSES, WIDTH), torch.zeros(CLASSES)
    logistic.cross_entropy(train, labels, axes.mean, axes.unfold(weight), bias)
    seconds = time.process_time() - start
    about = f"axes ({once:.0f} s), and 1 of about {EVALUATIONS} evaluations for one C"
    return about, seconds, once + EVALUATIONS * (seconds - once)


def run_rasa(images: int) -> tuple[str, float, float]:
    """Measure an epoch of a round of RASA on the patches of `RASA_IMAGES` images, or fewer with fewer images."""
    x = mapped_zeros(min(images, RASA_IMAGES), GRID * GRID, WIDTH)
    noise = torch.randn(BATCH, GRID * GRID, WIDTH, generator=torch.Generator().manual_seed(0))
    for part in x.split(BATCH):
        part.copy_(noise[: len(part)])
    settings = {"rounds": 1, "epochs": 1, "images": len(x), "batch_size": 128, "learning_rate": 0.01}
    start = time.process_time()
    learn_planes(x, grid_positions(GRID, GRID), Disentangle.model_validate(settings), seed=0)
    seconds = time.process_time() - start
    return f"1 of {ROUNDS} rounds, 1 of {EPOCHS} epochs, {len(x):,} images", seconds, seconds * ROUNDS * EPOCHS


PARTS: dict[str, Callable[[int], tuple[str, float, float]]] = {
    "k-NN": run_knn,
    "linear probe": run_linear,
    "RASA": run_rasa,
}


class Peak(threading.Thread):
    """Samples the anonymous memory of this process ten times a second; the kernel keeps no peak of it."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.bytes = 0

    def run(self) -> None:
        while True:
            self.bytes = max(self.bytes, anonymous())
            time.sleep(0.1)


def measure(name: str, images: int, gigabytes: float) -> dict[str, Any]:
    """Run a part and return its row."""
    torch.set_num_threads(1)
    # Private memory; pages of mapped files, which the kernel takes back when it needs them, do not count.
    limit = int(gigabytes * 1e9)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    peak = Peak()
    peak.start()
    about, seconds, of_all = PARTS[name](images)
    return {
        name: about,
        "CPU s": f"{seconds:.0f}",
        "all of it, CPU min": f"{of_all / 60:.0f}",
        "peak memory, GB": f"{peak.bytes / 1e9:.2f}",
        "with pages of files, GB": f"{resident(peak=True) / 1e9:.2f}",
    }


def main() -> None:
    """Run all parts and write `LARGE_SETS.md`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=IMAGES, help="training images")
    parser.add_argument("--gigabytes", type=float, default=8, help="memory that a process may allocate")
    arguments = parser.parse_args()
    lines = [
        "# Evaluation at the size of ImageNet-1k",
        "",
        f"Written by `python -m benchmarks.large_sets` on {machine()}; one thread.",
        "",
        f"{arguments.images:,} training images, {QUERIES:,} val images, {CLASSES:,} classes and {WIDTH} dimensions in"
        f" float32, a file of {4 * arguments.images * WIDTH / 1e9:.1f} GB. The features are made up: a mean for each"
        " class and noise. RASA has patch features of its own, as many as in the preset `vitb14-in21k`. Times are CPU"
        " seconds of the process, so that others on the machine do not count; with more cores they take less time."
        f" A process that allocates more than {arguments.gigabytes:g} GB fails here. Pages of mapped files come on top"
        " as long as memory is free.",
    ]
    for name in PARTS:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            lines.append(table([pool.apply(measure, (name, arguments.images, arguments.gigabytes))]))
    text = "\n".join(lines) + "\n"
    write_bytes(RESULTS, text.encode())
    print(text)


if __name__ == "__main__":
    main()
