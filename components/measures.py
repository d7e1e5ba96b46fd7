"""What a gate may be about: the metrics of a modality, and what is known of every model that is to be served."""

from collections.abc import Collection, Mapping
from typing import Literal

from pydantic import JsonValue

from components import modalities

OF_ALL: Mapping[str, Literal["lower", "higher"]] = {
    "latency_ms": "lower",  # of one sample with the default controls, warm, where the recipe ran
    "megabytes": "lower",  # of the bundle, 10^6 bytes
    "alarms": "lower",  # of its training that the recipe did not let stop it
}


def directions(modality: str) -> Mapping[str, Literal["lower", "higher"]]:
    """Every metric that a gate may name, and which way is better."""
    own: Mapping[str, Literal["lower", "higher"]] = modalities.part(modality, "metrics").DIRECTIONS
    return {**own, **OF_ALL}


def of_rows(modality: str) -> Collection[str]:
    """The metrics that are shares of generated rows, or of something in each: their noise is binomial at most."""
    shares: Collection[str] = modalities.part(modality, "metrics").OF_ROWS
    return shares


def lacking(
    metric: str, *, modality: str, controls: Collection[str], prepare: Mapping[str, JsonValue], inspected: bool
) -> str | None:
    """What a recipe has to offer or prepare before such a metric can be measured; None where it lacks nothing.

    `inspected` says whether it hands in a network that looks at what is made.
    """
    if metric in OF_ALL:
        return None
    lacks = modalities.part(modality, "metrics").lacking
    told: str | None = lacks(metric, controls=controls, prepare=prepare, inspected=inspected)
    return told
