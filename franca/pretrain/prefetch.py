"""Batches fetched one step early, so that a failed batch is known while all processes can still save."""

from collections.abc import Iterator

from franca.data.views.batch import Batch, RawBatch
from franca.data.views.loader import StepLoader
from franca.errors import FrancaError
from franca.pretrain.parallel import Ranks


class Prefetch(Iterator[Batch | RawBatch]):
    """An iterator over the loader's batches that always holds the next one."""

    def __init__(self, loader: StepLoader) -> None:
        self.fault: FrancaError | None = None
        """The error that prevents this process from continuing after the current batch, if there is one."""
        self._missing, self._batches = loader.missing, loader.batches()
        self._counted = 0
        self._next = self._fetch()

    def __next__(self) -> Batch | RawBatch:
        batch = self._next
        if batch is None:
            raise StopIteration
        self._next = self._fetch()
        return batch

    def _fetch(self) -> Batch | RawBatch | None:
        # An error raised here would end this process alone, and the others would wait for it in their next collective.
        # It is kept instead, and all processes stop together after a last step and its checkpoint.
        try:
            return next(self._batches, None)
        except FrancaError as error:
            self.fault = error
            return None

    def close(self) -> None:
        """End the processes and threads that load batches."""
        # The thread that pins memory must not outlive the interpreter: it would abort the process at exit.
        self._batches.close()
        self._next = None

    def count_lost(self, ranks: Ranks) -> None:
        """Exchange which images could not be read; sets `fault` if they are too many in all processes together."""
        new = dict(list(self._missing.lost.items())[self._counted :])
        try:
            for lost in ranks.gather(new):
                self._missing.add(lost, tell=False)
        except FrancaError as error:
            self.fault = error
        self._counted = len(self._missing.lost)

    def raise_fault(self, ranks: Ranks) -> None:
        """Raise FrancaError in all processes if any of them has a fault."""
        if ranks.any(self.fault is not None):
            raise self.fault or FrancaError("another process cannot read its images; see its message")
