"""The section `evaluate`: settings of the benchmarks."""

from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from franca.benchmarks import MODELS, PROTOCOL, Suite
from franca.params.section import Count, Positive, Section


class Evaluate(Section):
    """The section `evaluate`."""

    suite: Suite = Field(description="Benchmarks to run: fast, or full with those that take several times longer.")
    knn_k: Count = Field(description="Number of neighbors of the weighted k-NN.")
    knn_temperature: Positive = Field(description="Temperature of the neighbors' weights.")
    linear_c: list[Positive] = Field(
        min_length=1, description="Inverse regularization strengths of logistic regression; the best on val is used."
    )
    bootstrap_samples: int = Field(ge=100, description="Number of bootstrap samples for each confidence interval.")
    confidence: float = Field(gt=0.5, lt=1, description="Confidence level of the intervals, for example 0.95.")
    dense_size: int = Field(ge=16, description="Side of the images of dense evaluation, in pixels.")
    in_context_memory: Count = Field(description="Number of patches in the memory of in-context segmentation.")
    sample_images: int = Field(ge=1, le=64, description="Number of images shown in plots of maps and masks.")
    comparators: list[str] = Field(
        description="Model folders to evaluate as well, as written by `franca import-weights`."
    )

    @property
    def comparable(self) -> dict[str, Any]:
        """The values that must be equal for two results to be comparable, `suite` in `results.json`.

        A benchmark gives the same score in both suites, so `evaluate.suite` is none of them.
        """
        unrelated = {"suite", "sample_images", "comparators"}
        return {"protocol": PROTOCOL} | self.model_dump(mode="json", exclude=unrelated)

    @model_validator(mode="after")
    def _different_names(self) -> Self:
        names = [Path(folder).name for folder in self.comparators]
        taken = {model.name for model in MODELS}
        for name in names:
            if not name or name in taken or names.count(name) > 1:
                raise ValueError(f"comparators: '{name}' must be a folder name of its own, none of {sorted(taken)}")
        return self
