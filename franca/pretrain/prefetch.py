"""Batches taken a step before they are needed, so that a fault in one is known while all processes can still save."""

from collections.abc import Iterator

from franca.data.views.batch import Batch, RawBatch
from franca.data.views.loader import StepLoader
from franca.errors import FrancaError
from franca.pretrain.parallel import Ranks


class Ahead(Iterator[Batch | RawBatch]):
    """The loader's batches; `fault` is why this process cannot go on after the one just given."""

    def __init__(self, loader: StepLoader) -> None:
        self.fault: FrancaError | None = None
        self._missing, self._batches = loader.missing, loader.batches()
        self._counted = 0
        self._next = self._take()

    def __next__(self) -> Batch | RawBatch:
        batch = self._next
        if batch is None:
            raise StopIteration
        self._next = self._take()
        return batch

    def _take(self) -> Batch | RawBatch | None:
        try:
            return next(self._batches, None)
        except FrancaError as error:
            self.fault = error
            return None

    def close(self) -> None:
        """End the processes and threads that load batches.

        The thread that pins memory must not outlive the interpreter: it would abort the process at exit.
        """
        self._batches.close()
        self._next = None

    def count_lost(self, ranks: Ranks) -> None:
        """Count also what other processes could not read: together it may be too much."""
        new = dict(list(self._missing.lost.items())[self._counted :])
        try:
            for lost in ranks.gather(new):
                self._missing.add(lost, tell=False)
        except FrancaError as error:
            self.fault = error
        self._counted = len(self._missing.lost)

    def raise_fault(self, ranks: Ranks) -> None:
        """In every process, if any of them has a fault."""
        if ranks.any(self.fault is not None):
            raise self.fault or FrancaError("another process has no images to go on with, and says why")
