"""The benchmarks of the evaluation and the models they are run on: names, titles, units. Imports no torch.

Tables, pictures, gates and the README derive from `BENCHMARKS` and `MODELS`. A new benchmark is a module in
`franca/evaluation/benchmarks` and one entry in `BENCHMARKS`.
"""

import re
from dataclasses import dataclass
from typing import Literal

PROTOCOL = 2
"""Version of the benchmarks' definitions: a part of `suite` in results. Scores of different ones are not compared.

Increase it with every change that gives the same model another score. 2: segmentation in sliding windows.
"""
Suite = Literal["fast", "full"]
"""Value of `evaluate.suite`; the full suite contains the fast one."""
Need = Literal["labels", "masks", "videos", "network", "levels"]
"""Labels of images, masks, videos, features of a neural network, or Matryoshka levels of these features.

Without labels or masks a benchmark is skipped, and the report says why; the others are left out.
"""

_LEVELS: frozenset[Need] = frozenset({"network", "levels"})


@dataclass(frozen=True)
class Benchmark:
    """One value of `benchmark` in the rows of `results.json`.

    Attributes:
        name: Name in `results.json`.
        title: Heading in tables and pictures.
        unit: Unit of the scores.
        gate_metrics: Regular expression of the metrics that a gate may name; empty if none.
        metric: The main metric, which has a column in tables and a row of differences; None to stay out of them.
        needs: What the data and the model must have.
        higher_is_better: Direction of all its metrics.
        pictures: Names of the files that `draw` of its module writes.
        suite: The smallest suite that it belongs to.
        measured_by: Benchmark whose module measures this one as well; None if it has a module of its own name.
    """

    name: str
    title: str
    unit: str
    gate_metrics: str
    metric: str | None = None
    needs: frozenset[Need] = frozenset()
    higher_is_better: bool = True
    pictures: tuple[str, ...] = ()
    suite: Suite = "fast"
    measured_by: str | None = None

    @property
    def module(self) -> str:
        """Name of the module in `franca/evaluation/benchmarks` that measures it."""
        return self.measured_by or self.name

    def belongs_to(self, suite: Suite) -> bool:
        """Return whether a suite contains the benchmark."""
        return suite in ("full", self.suite)

    def allows_gate(self, metric: str) -> bool:
        """Return whether a gate may name this metric of the benchmark."""
        return bool(self.gate_metrics and re.fullmatch(self.gate_metrics, metric))


def _widths(
    module: str, need: Need, suite: Suite = "fast", gate_metrics: str = "", controls_need: frozenset[Need] = _LEVELS
) -> tuple[Benchmark, ...]:
    """Return the benchmarks that repeat one on D of the dimensions: the first ones, random ones, and components.

    Args:
        module: Name of the repeated benchmark.
        need: What it needs.
        suite: As in `Benchmark`.
        gate_metrics: As in `Benchmark`, for the first D dimensions.
        controls_need: What the two controls need in addition.
    """
    return tuple(
        Benchmark(
            f"{module}_{name}",
            title,
            unit="%",
            gate_metrics=gates,
            needs=needs | {need},
            suite=suite,
            measured_by=module,
        )
        for name, title, gates, needs in (
            ("levels", "first D", gate_metrics, _LEVELS),
            ("random_dims", "D at random", "", controls_need),
            ("components", "D principal components", "", controls_need),
        )
    )


BENCHMARKS = (
    Benchmark(
        "knn",
        "k-NN",
        unit="%",
        gate_metrics="top1",
        metric="top1",
        needs=frozenset({"labels"}),
        pictures=("knn_by_level.csv", "knn_by_level.png", "confusion.csv", "confusion.png"),
    ),
    # The baselines have no levels, but the same controls.
    *_widths("knn", "labels", gate_metrics=r"top1_\d+", controls_need=frozenset()),
    Benchmark(
        "linear",
        "linear probe",
        unit="%",
        gate_metrics="top1",
        metric="top1",
        needs=frozenset({"labels"}),
    ),
    *_widths("linear", "labels"),
    Benchmark(
        "segmentation",
        "segmentation mIoU",
        unit="%",
        gate_metrics="miou|pixel_accuracy",
        metric="miou",
        needs=frozenset({"masks"}),
        pictures=("patch_maps.png", "masks.png"),
    ),
    Benchmark(
        "position",
        "position R2",
        unit="%",
        gate_metrics="r2",
        metric="r2",
        higher_is_better=False,
    ),
    Benchmark(
        "views",
        "view agreement",
        unit="%",
        gate_metrics="top1",
        metric="top1",
    ),
    Benchmark(
        "rank",
        "RankMe",
        unit="dimensions",
        gate_metrics="rankme",
        metric="rankme",
        needs=frozenset({"network"}),
    ),
    Benchmark(
        "knn_k",
        "k-NN of k",
        unit="%",
        gate_metrics=r"top1_\d+",
        needs=frozenset({"labels"}),
        suite="full",
    ),
    Benchmark(
        "few_shot",
        "5 images a class",
        unit="%",
        gate_metrics=r"top1_\d+",
        metric="top1_5",
        needs=frozenset({"labels"}),
        suite="full",
    ),
    Benchmark(
        "in_context",
        "in-context mIoU",
        unit="%",
        gate_metrics="miou|pixel_accuracy",
        metric="miou",
        needs=frozenset({"masks"}),
        suite="full",
    ),
    *_widths("in_context", "masks", suite="full"),
    Benchmark(
        "overclustering",
        "clusters mIoU",
        unit="%",
        gate_metrics=r"hungarian_miou|greedy_miou_\d+",
        metric="hungarian_miou",
        needs=frozenset({"masks"}),
        suite="full",
    ),
    Benchmark(
        "token_cut",
        "TokenCut CorLoc",
        unit="%",
        gate_metrics="corloc",
        metric="corloc",
        needs=frozenset({"masks", "network"}),
        suite="full",
    ),
    Benchmark(
        "token_cut_whole_image",
        "box of the image",
        unit="%",
        gate_metrics="",
        needs=frozenset({"masks", "network"}),
        suite="full",
        measured_by="token_cut",
    ),
    Benchmark(
        "video",
        "video J&F",
        unit="%",
        gate_metrics="jf|j|f",
        metric="jf",
        needs=frozenset({"masks", "videos"}),
        suite="full",
    ),
    Benchmark(
        "novelty",
        "novelty AUROC",
        unit="%",
        gate_metrics=r"(auroc|aupr)_(knn|mahalanobis|energy)",
        metric="auroc_knn",
        needs=frozenset({"labels"}),
        suite="full",
    ),
    Benchmark(
        "novelty_misses",
        "novel images missed",
        unit="%",
        gate_metrics=r"fpr95_(knn|mahalanobis|energy)",
        needs=frozenset({"labels"}),
        higher_is_better=False,
        suite="full",
        measured_by="novelty",
    ),
    Benchmark(
        "corruptions",
        "k-NN, corrupted",
        unit="%",
        gate_metrics=r"top1|top1_[a-z_]+",
        metric="top1",
        needs=frozenset({"labels"}),
        suite="full",
    ),
    Benchmark(
        "lidar",
        "LiDAR",
        unit="dimensions",
        gate_metrics="lidar",
        metric="lidar",
        needs=frozenset({"network"}),
        suite="full",
    ),
)
"""In the order in which they run and in which tables have their columns."""
BY_NAME = {benchmark.name: benchmark for benchmark in BENCHMARKS}
MODULES = tuple(benchmark for benchmark in BENCHMARKS if benchmark.measured_by is None)
"""Benchmarks that have a module of their own."""
COLUMNS = tuple(
    (benchmark.name, benchmark.metric, benchmark.title) for benchmark in BENCHMARKS if benchmark.metric is not None
)
"""Benchmark, main metric and title of each column of a table."""
LABELED = tuple(benchmark.name for benchmark in BENCHMARKS if "labels" in benchmark.needs)
"""Benchmarks that need labels."""
LABEL_FREE = tuple(benchmark.name for benchmark in BENCHMARKS if not benchmark.needs & {"labels", "masks"})
"""Benchmarks that need images only; their gates replace those of `LABELED` if the images have no labels."""
LOWER_IS_BETTER = tuple(benchmark.name for benchmark in BENCHMARKS if not benchmark.higher_is_better)
LEVELS = {
    benchmark.name: benchmark.title for benchmark in BENCHMARKS if benchmark.module == "knn" and not benchmark.metric
}
"""Benchmarks that measure k-NN on D of the dimensions, and which D those are."""


@dataclass(frozen=True)
class MeasuredModel:
    """A model that every evaluation measures.

    Attributes:
        name: Value of `model` in the rows of `results.json`.
        title: Name in tables.
        label: Name in pictures.
        color: Color in pictures.
        against: Value of a gate's `against` that stands for it; None if a gate cannot.
        phrase: Name in the sentences of a gate.
    """

    name: str
    title: str
    label: str
    color: str
    against: str | None = None
    phrase: str = ""


OURS, RANDOM_INIT, RAW_PIXELS, COLOR_HISTOGRAM = "franca", "random_init", "raw_pixels", "color_histogram"
MODELS = (
    MeasuredModel(OURS, "this model", "Franca", "#1d4e89"),
    MeasuredModel(
        RANDOM_INIT,
        "same ViT, random weights",
        "random weights",
        "#7d8597",
        against="random",
        phrase="the same ViT with random weights",
    ),
    MeasuredModel(RAW_PIXELS, "raw pixels", "raw pixels", "#b08968", against="pixels", phrase="raw pixels"),
    MeasuredModel(COLOR_HISTOGRAM, "color histogram", "color histogram", "#e07a3f"),
)
"""The evaluated model and its baselines; comparators (`evaluate.comparators`) go by the names of their folders."""
TITLES = {model.name: model.title for model in MODELS}
BASELINES = {model.against: model.name for model in MODELS if model.against}
"""Names of the baselines by the values of a gate's `against`."""
PHRASES = {model.against: model.phrase for model in MODELS if model.against}
