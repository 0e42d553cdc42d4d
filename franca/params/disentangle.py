"""The section `disentangle`: RASA."""

from pydantic import Field

from franca.params.section import Count, Positive, Section


class Disentangle(Section):
    """The section `disentangle`."""

    rounds: int = Field(ge=0, le=32, description="Rounds of RASA; each removes two dimensions, and 0 skips RASA.")
    epochs: Count = Field(description="Length of a round, in passes over the images.")
    images: Count = Field(description="Maximum number of training images used.")
    batch_size: Count = Field(description="Number of images in a step.")
    learning_rate: Positive = Field(
        description="Learning rate of AdamW at the start of each round; falls to 0 on a cosine."
    )
