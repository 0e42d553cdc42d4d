"""The model that a server has loaded, and its replacement when the alias in the registry moves."""

import asyncio
import logging
import time
from typing import NamedTuple

import torch

from franca import hub
from franca.models import FrancaModel
from franca.serving.metrics import Metrics
from franca.tracking.download import version_of

LOG = logging.getLogger("uvicorn.error")


class Loaded(NamedTuple):
    """A model on its device.

    Attributes:
        version: Number of the version in the registry; empty for other sources.
        model: The model.
        time: When it was loaded, in seconds since 1970.
    """

    version: str
    model: FrancaModel
    time: float


class ServedModel:
    """The model at an address.

    Attributes:
        source: The address, as `franca.load` takes it.
        loaded: The present model. Readers keep their own reference: a reload replaces this one.
    """

    def __init__(self, source: str, device: torch.device, metrics: Metrics) -> None:
        """Load the model.

        Weights of the registry are compared with the digests that it has of them.

        Raises:
            FrancaError: There is no such model, or its files were changed.
        """
        self.source, self._device, self._metrics = source, device, metrics
        self.loaded = self._load(version_of(source))

    async def follow(self, seconds: float) -> None:
        """Ask the registry every few seconds for the version, and load another one while the present one works."""
        if not self.loaded.version:
            return
        while True:
            await asyncio.sleep(seconds)
            try:
                version = await asyncio.to_thread(version_of, self.source)
                if version != self.loaded.version:
                    self.loaded = await asyncio.to_thread(self._load, version)
                    self._metrics.reloads.inc()
                    LOG.info("%s is version %s now", self.source, version)
            except Exception as error:
                # The present model goes on: a registry that is down, a broken version or too little memory for two
                # models takes no service down.
                self._metrics.failed_reloads.inc()
                LOG.warning("version %s goes on: %s", self.loaded.version, " ".join(str(error).split()))

    def _load(self, version: str) -> Loaded:
        # By number, so that the model is of this version even if the alias moves meanwhile.
        address = f"{self.source.rpartition('@')[0]}/{version}" if version and "@" in self.source else self.source
        model = hub.load(address).to(self._device)
        self._metrics.serve(self.source, version, model.digest)
        return Loaded(version, model, time.time())
