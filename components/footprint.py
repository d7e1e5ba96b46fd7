"""What serving a bundle takes: the time of a sample, and the bytes that are loaded."""

import time
from statistics import median

from components import loading, sampling
from components.contract import Batch
from components.recipe import Evaluate
from components.records import Artifact, Footprint
from components.store import Store

SAMPLES = 5  # of each sampling seed, of which the median counts: other work on the machine makes single ones late


def measure(bundle: Artifact, settings: Evaluate, *, store: Store) -> Footprint:
    """One sample at a time through the door of serving, encoded as it is sent, after one that is not told."""
    directory = store.path(bundle)
    endpoint = sampling.load(directory, digest=bundle.digest)
    given = endpoint.example()
    endpoint.generate([0], given=given)
    return Footprint(
        bundle=bundle,
        latency_ms=tuple(
            median(_milliseconds(endpoint, loading.seed_of(seed, "time", turn), given) for turn in range(SAMPLES))
            for seed in settings.seeds
        ),
        bytes=sum(path.stat().st_size for path in directory.iterdir()),
    )


def _milliseconds(endpoint: sampling.Endpoint, seed: int, given: Batch | None) -> float:
    begun = time.perf_counter()
    endpoint.generate([seed], given=given)
    return 1e3 * (time.perf_counter() - begun)
