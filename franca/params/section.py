"""The base class of all sections of params.yaml, and the types of their numbers."""

from typing import Annotated, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field
from pydantic.fields import FieldInfo

Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """Fields have no defaults, so that the file shows every value that a run uses."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        # Prefect's form then has the names of the file, not "Embed Dim" and "Ffn".
        field_title_generator=lambda name, field: getattr(field, "alias", None) or name,
    )


def by_key(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """Return a model's fields by their names in the file."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


def section_of(field: FieldInfo) -> type[BaseModel] | None:
    """Return the model of a field that is a section."""
    return _model(field.annotation)


def item_of(field: FieldInfo) -> type[BaseModel] | None:
    """Return the model of the items of a field that is a list of sections."""
    kind = field.annotation
    return next(filter(None, map(_model, get_args(kind))), None) if get_origin(kind) is list else None


def entry_of(field: FieldInfo) -> type[BaseModel] | None:
    """Return the model of the values of a field that is a mapping from names to sections."""
    kind = field.annotation
    return next(filter(None, map(_model, get_args(kind))), None) if get_origin(kind) is dict else None


def _model(kind: object) -> type[BaseModel] | None:
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None
