"""Parameters whose `auto` is replaced by numbers; code that computes with `base.mean` or `base.std` asks for these."""

from collections.abc import Callable

from franca.errors import FrancaError
from franca.params.base import Base, ChannelStatistics, Deviations, Means
from franca.params.tree import Params


class ResolvedBase(Base):
    """The section `base` with numbers for the channel statistics."""

    mean: Means
    std: Deviations


class ResolvedParams(Params):
    """All parameters, with numbers for the channel statistics."""

    base: ResolvedBase


def _unmeasured() -> ChannelStatistics:
    raise FrancaError("base.mean, base.std: auto needs the statistics of a prepared store; set numbers")


def resolve(params: Params, measured: Callable[[], ChannelStatistics] = _unmeasured) -> ResolvedParams:
    """Return `params` with numbers for each `auto`.

    Args:
        params: Parameters as read from a file.
        measured: Returns the statistics of the training images; called only if there is an `auto`.

    Raises:
        FrancaError: There is an `auto` and no `measured`, or whatever `measured` raises.
    """
    values = params.model_dump(by_alias=True)
    for name in ("mean", "std"):
        if values["base"][name] == "auto":
            values["base"][name] = getattr(measured(), name)
    return ResolvedParams.model_validate(values)
