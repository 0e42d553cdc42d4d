"""The pipeline with a few values changed, for forms, scripts and `franca submit`: nobody has to give all of them."""

from typing import Annotated

from prefect import flow
from pydantic import Field

from flows.pipeline import run_pipeline
from franca import presets
from franca.params import Params
from franca.paths import PARAMS

FILE = str(PARAMS)

Start = Annotated[str, Field(json_schema_extra={"enum": [FILE, *presets.names()]})]
Change = Annotated[str, Field(pattern=r"^\s*[\w.-]+\s*=")]


def params_of(preset: str, values: list[str]) -> Params:
    """Return the parameters that the flow runs with; raises FrancaError."""
    return presets.changed(None if preset == FILE else preset, values)


@flow
def quick(preset: Start = FILE, values: list[Change] = []) -> None:  # noqa: B006
    """Run the pipeline with some values changed.

    Args:
        preset: What the values are changed in: params.yaml as it is when the run starts, or a preset.
        values: Changes, one a line: `pretrain.epochs=0.2`
    """
    run_pipeline(params_of(preset, values))
