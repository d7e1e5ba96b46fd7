"""What the routes work with, put together once when the service starts."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from serving.batching import Batcher
from serving.journal import Journal
from serving.keys import Keys
from serving.metrics import Metrics
from serving.observations import Observations
from serving.replies import Replies
from serving.residents import Residents

if TYPE_CHECKING:  # cryptography comes with it
    from components.provenance import Signer


@dataclass(frozen=True)
class Parts:
    """The models in memory and their queue, who may call, and what is kept of each call."""

    residents: Residents
    batcher: Batcher
    keys: Keys
    journal: Journal
    metrics: Metrics
    replies: Replies
    signer: "Signer | None" = None
    standing: Path | None = None  # the file that tells how things stand
    observations: Observations = field(default_factory=lambda: Observations(None))
    blocked: Mapping[str, frozenset[str]] = field(default_factory=dict)  # words, by team
