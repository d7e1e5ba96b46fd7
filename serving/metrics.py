"""What Prometheus reads at /metrics: by model, version and team, and nothing of what was asked."""

from typing import TYPE_CHECKING

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from serving.drift import Drift

if TYPE_CHECKING:
    from serving.journal import Entry

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
ROWS = (1, 2, 4, 8, 16, 32, 64)
WHOSE = ("model", "version", "team")


class Metrics:
    """The service's own registry, and what it counts."""

    media_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "atelier_requests", "Requests answered.", (*WHOSE, "route", "status"), registry=registry
        )
        self._latency = Histogram(
            "atelier_request_seconds",
            "From a request's first byte to its answer.",
            WHOSE,
            buckets=SECONDS,
            registry=registry,
        )
        self._queued = Histogram(
            "atelier_queue_seconds",
            "Until the first batch of a request began.",
            WHOSE,
            buckets=SECONDS,
            registry=registry,
        )
        self._first = Histogram(
            "atelier_first_piece_seconds",
            "Until the first piece of a text was written, time in the queue included.",
            WHOSE,
            buckets=SECONDS,
            registry=registry,
        )
        self._samples = Counter(
            "atelier_samples", "Samples handed over; their rate is samples per second.", WHOSE, registry=registry
        )
        self._moderated = Counter(
            "atelier_moderated",
            "Kinds of content that requests and answers held, and what was done about it.",
            (*WHOSE, "where", "kind", "action"),
            registry=registry,
        )
        self._batches = Histogram(
            "atelier_batch_samples",
            "Samples that shared a forward pass.",
            ("model", "version"),
            buckets=ROWS,
            registry=registry,
        )
        self._batch_seconds = Counter(
            "atelier_batch_seconds", "Seconds that the models ran.", ("model", "version"), registry=registry
        )
        self.waiting = Gauge("atelier_queue_samples", "Samples that wait for a batch.", registry=registry)
        self._resident = Gauge("atelier_resident_models", "Model versions in memory.", registry=registry)
        self._release = Gauge("atelier_release_number", "Number of the release that is served.", registry=registry)
        self.unobserved = Counter(
            "atelier_observations_dropped", "Requests, or old files of them, that the monitor will not see.", ("what",),
            registry=registry,
        )  # fmt: skip
        self.drift = Drift(registry)
        self.failures = Counter("atelier_failures", "Faults of ours, by what failed.", ("part",), registry=registry)

    def request(self, entry: "Entry") -> None:
        """Count one request."""
        whose = (entry.model, entry.version, entry.team)
        self._requests.labels(*whose, entry.route, str(entry.status)).inc()
        for told in entry.moderated:
            self._moderated.labels(*whose, *told).inc()
        if entry.samples:
            self._latency.labels(*whose).observe(entry.seconds)
            self._queued.labels(*whose).observe(entry.queued)
            self._samples.labels(*whose).inc(entry.samples)
            if entry.first:
                self._first.labels(*whose).observe(entry.first)

    def batch(self, name: tuple[str, str], samples: int, seconds: float) -> None:
        """Count one forward pass."""
        self._batches.labels(*name).observe(samples)
        self._batch_seconds.labels(*name).inc(seconds)

    def installed(self, resident: int, number: int) -> None:
        """Say which release is served, and how many versions are in memory."""
        self._resident.set(resident)
        self._release.set(number)

    def text(self) -> bytes:
        """All of it in Prometheus's format."""
        return generate_latest(self._registry)
