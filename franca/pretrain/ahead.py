"""Batches taken a step before they are needed, so that a fault in one is known while all processes can still save."""

from collections.abc import Iterator

from franca.data.batch import Batch, RawBatch
from franca.data.loader import StepLoader
from franca.errors import FrancaError
from franca.pretrain.parallel import Ranks


class Ahead(Iterator[Batch | RawBatch]):
    """The loader's batches. `fault` is why there is none after the one just given; the first one's is raised."""

    def __init__(self, loader: StepLoader) -> None:
        self.fault: FrancaError | None = None
        self._missing, self._batches = loader.missing, iter(loader)
        self._next = next(self._batches, None)

    def __next__(self) -> Batch | RawBatch:
        batch = self._next
        if batch is None:
            raise StopIteration
        try:
            self._next = next(self._batches, None)
        except FrancaError as error:
            self._next, self.fault = None, error
        return batch

    def count_lost(self, ranks: Ranks) -> None:
        """Count also what other processes could not read: together it may be too much."""
        try:
            for lost in ranks.gather(self._missing.lost):
                self._missing.add(lost, tell=False)
        except FrancaError as error:
            self.fault = error
