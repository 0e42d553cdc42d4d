"""The whole of params.yaml: one section per stage, `base` for values of several stages, and `runtime`."""

from typing import Self

from pydantic import Field, model_validator

from franca.benchmarks import BY_NAME
from franca.errors import FrancaError
from franca.params.base import Base
from franca.params.datasets import Dataset, DatasetName
from franca.params.disentangle import Disentangle
from franca.params.evaluate import Evaluate
from franca.params.prepare import Prepare
from franca.params.pretrain import Pretrain
from franca.params.register import Register
from franca.params.runtime import Runtime
from franca.params.section import Section


class Params(Section):
    """All parameters, as in params.yaml."""

    base: Base = Field(description="Values used by several stages.")
    prepare: Prepare = Field(description="Verify, split and store the images.")
    pretrain: Pretrain = Field(description="Self-supervised pretraining.")
    disentangle: Disentangle = Field(description="Remove position from patch features (RASA).")
    evaluate: Evaluate = Field(description="Benchmarks.")
    datasets: dict[DatasetName, Dataset] = Field(
        description="Further data sets that every model is evaluated on, by name: {path: ..., task: ...} each."
    )
    register_: Register = Field(alias="register", description="MLflow tracking, model registry and promotion.")
    runtime: Runtime = Field(description="Hardware, logging and checkpoints; changes at most a result's last bits.")

    def dataset(self, name: str) -> Dataset:
        """Return a data set of evaluation; raises FrancaError if there is none of this name."""
        if name not in self.datasets:
            known = ", ".join(self.datasets) or "none"
            raise FrancaError(f"datasets: no data set '{name}' (known: {known}); add it to the section datasets")
        return self.datasets[name]

    @model_validator(mode="after")
    def _suite_has_gates(self) -> Self:
        for gate in self.register_.gates:
            if not BY_NAME[gate.key[0]].belongs_to(self.evaluate.suite):
                raise ValueError(
                    f"register.gates: metric '{gate.metric}' is not measured; set evaluate.suite to full or remove it"
                )
        return self

    @model_validator(mode="after")
    def _gates_have_their_data(self) -> Self:
        for gate in self.register_.gates:
            if gate.dataset is not None and gate.dataset not in self.datasets:
                known = ", ".join(self.datasets) or "none"
                raise ValueError(f"register.gates: {gate.metric} needs the data set {gate.dataset} (known: {known})")
        return self

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        patch = self.base.backbone.patch_size
        for value, name in (
            (self.pretrain.crops.local_size, "pretrain.crops.local_size"),
            (self.evaluate.dense_size, "evaluate.dense_size"),
        ):
            if value % patch:
                raise ValueError(f"{name} {value} must be a multiple of base.backbone.patch_size {patch}")
        microbatch, koleo_images = self.runtime.microbatch, self.pretrain.losses.koleo_images
        if microbatch is not None and microbatch < koleo_images:
            raise ValueError(
                f"runtime.microbatch {microbatch} must be at least pretrain.losses.koleo_images {koleo_images}"
            )
        smallest = self.pretrain.heads.prototypes // 16
        if self.pretrain.heads.nesting != "none" and smallest < 2:
            raise ValueError("pretrain.heads.prototypes must be at least 32 so that the coarsest level has two")
        return self
