"""The section `register`: names in MLflow, and the gates of promotion."""

from typing import Literal, Self

from pydantic import Field, model_validator

from franca.benchmarks import BENCHMARKS, BY_NAME
from franca.params.datasets import DATASET
from franca.params.section import NonNegative, Section

GATED = "|".join(benchmark.name for benchmark in BENCHMARKS if benchmark.gate_metrics)


class Gate(Section):
    """One condition of promotion."""

    metric: str = Field(
        pattern=rf"^({DATASET}/)?({GATED})/(val|test)/\w+$",
        description="Metric on val: knn/val/top1 on the training source, imagenet/knn/val/top1 on a data set.",
    )
    against: Literal["champion", "random", "pixels"] = Field(
        description="Reference: the champion, the same model with random weights, or raw pixels."
    )
    min_improvement: NonNegative = Field(
        description="Minimum improvement over the reference, in the metric's unit; 0: not significantly worse."
    )
    floor: float | None = Field(description="Worst value that passes, in the metric's unit; null for no limit.")

    @property
    def dataset(self) -> str | None:
        """Name of the data set of evaluation; None for the training source."""
        dataset, _, rest = self.metric.partition("/")
        return dataset if rest.count("/") == 2 else None

    @property
    def key(self) -> tuple[str, str, str]:
        """Benchmark, split and name of the score."""
        benchmark, split, name = self.metric.split("/")[-3:]
        return benchmark, split, name

    @model_validator(mode="after")
    def _never_test(self) -> Self:
        if self.key[1] == "test":
            raise ValueError(f"metric '{self.metric}' is of the test split, which is reported and never gated on")
        return self

    @model_validator(mode="after")
    def _benchmark_has_it(self) -> Self:
        name, _, metric = self.key
        benchmark = BY_NAME[name]
        if not benchmark.allows_gate(metric):
            known = benchmark.gate_metrics.replace("|", " and ").replace(r"\d+", "D, D a number such as 192")
            raise ValueError(f"metric '{self.metric}' is unknown; {name} has {known}")
        return self

    @model_validator(mode="after")
    def _pixels_have_it(self) -> Self:
        if self.against == "pixels" and "network" in BY_NAME[self.key[0]].needs:
            raise ValueError(f"metric '{self.metric}' is not measured of raw pixels; use against 'random'")
        return self


class Register(Section):
    """The section `register`."""

    experiment: str = Field(min_length=1, description="Name of the MLflow experiment.")
    model_name: str = Field(min_length=1, pattern=r"^[\w .+()-]+$", description="Name in MLflow's model registry.")
    promotion: Literal["auto", "manual"] = Field(
        description="A version that passes its gates becomes champion (auto) or waits for `franca approve` (manual)."
    )
    gates: list[Gate] = Field(min_length=1, description="Conditions of promotion; all must hold.")
