"""The section `datasets`: further data sets to evaluate on, apart from the training images."""

from typing import Annotated, Literal

from pydantic import Field

from franca.params.section import Section

DATASET = "[a-z0-9][a-z0-9_-]*"
"""Regular expression of the name of a data set."""
DatasetName = Annotated[str, Field(pattern=f"^{DATASET}$", max_length=40)]
"""Name of a data set: a folder in `datasets/` and `results/datasets/`, and the first part of its metrics' names."""


class Dataset(Section):
    """A labeled data set."""

    path: str = Field(min_length=1, description="Folder of the images; see docs/data.md for its layouts.")
    task: Literal["classification", "segmentation", "boxes", "video"] = Field(
        description="What its images have: classes, segmentation masks, boxes, or masks of objects in videos."
    )
