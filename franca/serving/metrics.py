"""Metrics of the server in Prometheus' format."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_IMAGES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Counters of one server; each server has its own registry."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self.requests = Counter("franca_requests", "Requests", ["path", "status"], registry=registry)
        self.seconds = Histogram(
            "franca_request_seconds", "Seconds of answered requests", ["path"], buckets=_SECONDS, registry=registry
        )
        self.images = Counter("franca_images", "Images that were embedded", registry=registry)
        self.batch = Histogram("franca_batch_images", "Images of a batch", buckets=_IMAGES, registry=registry)
        self.active = Gauge("franca_active_requests", "Requests that are worked on", registry=registry)
        self.reloads = Counter("franca_reloads", "Models that were loaded after an alias moved", registry=registry)
        self.failed_reloads = Counter("franca_failed_reloads", "Models that could not be loaded", registry=registry)
        self._served = _Served()
        registry.register(self._served)

    def serve(self, address: str, version: str, digest: str) -> None:
        """Name the model that is served."""
        self._served.labels = [address, version, digest]

    def text(self) -> bytes:
        """Return all metrics."""
        return generate_latest(self.registry)


class _Served(Collector):
    """The model that is served, as labels of a metric that is always 1."""

    labels: list[str] | None = None

    def collect(self) -> list[GaugeMetricFamily]:
        """Return the metric."""
        family = GaugeMetricFamily("franca_model_info", "Model", labels=["model", "version", "digest"])
        if self.labels:
            family.add_metric(self.labels, 1)
        return [family]
