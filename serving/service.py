"""The BentoML service: loads the bundles of a release, and answers by `routes.py`.

BentoML imports this file twice, in the process that starts the server and in the one that answers; only the second
makes an instance, so torch is imported there alone. What BentoML would measure and log for each request is left to
our own metrics and log, which know models, versions and teams.
"""

import ipaddress
import logging
import os
import signal
import socket
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import bentoml

from components.errors import AtelierError
from serving import connections, moderation, routes
from serving import release as releases
from serving.batching import Batcher
from serving.journal import Journal
from serving.keys import Keys
from serving.metrics import Metrics
from serving.observations import Observations
from serving.parts import Parts
from serving.release import Release, Served
from serving.replies import Replies
from serving.residents import Residents
from serving.settings import Settings

if TYPE_CHECKING:
    from components.provenance import Signer

LOG = logging.getLogger("atelier.serving")

connections.bound()
app = routes.application()


@bentoml.service(
    workers=1,  # one process owns the models; a container is the unit that is multiplied
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
    tracing={"excluded_urls": ".*"},  # spans that nobody collects cost as much again as the whole of our own part
    envs=[{"name": "OMP_WAIT_POLICY", "value": "passive"}],  # spinning threads starve the event loop
)
@bentoml.asgi_app(app)
class Generator:
    """Generative models of one release: OpenAI's routes and our own under /v1, a playground at /."""

    def __init__(self) -> None:
        settings = Settings.of_environment()
        metrics = Metrics()
        self.draining = False
        self.parts = Parts(
            batcher=(batcher := Batcher(observe=metrics.batch)),
            residents=Residents(batcher, _place, loaded=metrics.installed),
            keys=Keys(settings.keys, warn=LOG.error),
            journal=Journal(
                settings.journal, texts=settings.log_prompts, failed=metrics.failures.labels("journal").inc
            ),
            metrics=metrics,
            replies=Replies(),
            signer=_signer(settings.signing_key),
            standing=settings.standing,
            blocked=moderation.lists(settings.block_lists),
            observations=Observations(
                settings.observations,
                texts=settings.log_prompts,
                most_bytes=settings.observations_mib * 2**20,
                failed=metrics.failures.labels("observations").inc,
                dropped=lambda what, count: metrics.unobserved.labels(what).inc(count),
            ),
        )
        _refuse_open_door(self.parts.keys)
        if settings.live:
            self.parts.residents.install(_first(settings.release))
            self.parts.residents.watch(settings.release)
        else:
            self.parts.residents.install(releases.read(settings.release), strict=True)
        app.state.parts = self.parts
        self._drain_on_signal(settings.drain_seconds)

    async def __is_ready__(self) -> bool:
        """Off while the server drains, and while not one of the models that it should serve could be loaded."""
        view = self.parts.residents.view
        return not self.draining and (bool(view.champions) or not view.troubles)

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    def close(self) -> None:
        self.draining = True
        self.parts.residents.close()
        self.parts.batcher.close()
        self.parts.journal.close()
        self.parts.observations.close()

    def _drain_on_signal(self, seconds: float) -> None:
        """Turn unready at SIGTERM, and hand it on to the server `seconds` later; until then all is answered."""
        if threading.current_thread() is not threading.main_thread():
            return
        served = signal.getsignal(signal.SIGTERM)

        def drain(number: int, frame: FrameType | None) -> None:
            if self.draining or not callable(served):
                return
            self.draining = True
            LOG.warning("draining for %g s", seconds)
            threading.Timer(seconds, served, (number, None)).start()

        signal.signal(signal.SIGTERM, drain)


def _place(served: Served) -> Path:
    return Path(bentoml.models.get(served.bento_model).path) / "bundle"


def _first(path: Path) -> Release:
    """The release as it is at the start of a server that follows it; nothing is served before the first."""
    return releases.read(path) if path.exists() else Release(number=0)


def _signer(path: Path | None) -> "Signer | None":
    from components.provenance import Signer

    return None if path is None else Signer.read(path)


def _refuse_open_door(keys: Keys) -> None:
    """Raise an `AtelierError` where others than this machine could call without a key."""
    address = _address()
    if keys.required or address is None or ipaddress.ip_address(address).is_loopback:
        return
    raise AtelierError(
        f"the server would listen on {address}, where others can reach it, and has no API keys. Make one with "
        "`atelier keys make TEAM` and name the file of keys in ATELIER_KEYS, or listen on 127.0.0.1."
    )


def _address() -> str | None:
    """The address of the socket that BentoML hands to this process; None without one, as in a test."""
    given = " ".join(sys.argv).replace("--fd=", "--fd ").split()
    if "--fd" not in given:
        return None
    with socket.socket(fileno=os.dup(int(given[given.index("--fd") + 1]))) as listening:
        address: str = listening.getsockname()[0]
        return address
