"""The models in memory: a new champion is loaded and warmed beside the old one, and then a pointer flips.

What a request may name follows from the release record alone. Versions that no alias names are loaded when they are
first asked for, and the least used of them make room for others.
"""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from components.errors import AtelierError
from serving import release as releases
from serving.batching import Batcher, Name
from serving.release import Release, Served

if TYPE_CHECKING:
    from components.sampling import Endpoint

LOG = logging.getLogger("atelier.serving")
SPARE = 4  # versions without an alias that stay in memory
LOOK_SECONDS = 0.2  # between looks at the release record
RETRY_SECONDS = 10.0  # before a champion that could not be loaded is tried again

Locate = Callable[[Served], Path]


@dataclass(frozen=True, slots=True)
class Resident:
    """A version in memory: what the release says of it, and its endpoint; `since` in unix seconds."""

    model: str
    version: str
    served: Served
    endpoint: "Endpoint"
    since: int


@dataclass(frozen=True)
class View:
    """What is served at one moment: never changed, only replaced whole."""

    release: Release = field(default_factory=lambda: Release(number=0))
    champions: Mapping[str, Resident] = field(default_factory=dict)
    troubles: Mapping[str, str] = field(default_factory=dict)  # why the release's champion is not the one served


class Residents:
    """Loads what a release names, on a thread of its own, while the models go on answering."""

    def __init__(
        self, batcher: Batcher, locate: Locate, *, loaded: Callable[[int, int], None] = lambda n, r: None
    ) -> None:
        self.view = View()
        self._batcher, self._locate, self._loaded = batcher, locate, loaded
        self._loader = ThreadPoolExecutor(1, "loader")
        self._lock = threading.Lock()
        self._held: OrderedDict[Name, Future[Resident]] = OrderedDict()  # the least lately used first
        self._ending = threading.Event()
        self._watcher: threading.Thread | None = None

    def install(self, release: Release, *, strict: bool = False) -> None:
        """Serve a release: each champion that can be loaded takes over, and one that cannot leaves the old one.

        With `strict` the error of a champion that cannot be loaded is raised instead.
        """
        champions = {name: held for name, held in self.view.champions.items() if name in release.models}
        self.view = View(release, champions)
        named = {name: model for name, model in release.models.items() if model.champion is not None}
        coming = {name: self._have(name, str(m.champion), m.versions[str(m.champion)]) for name, m in named.items()}
        for name, future in coming.items():
            try:
                self.view = replace(self.view, champions={**self.view.champions, name: future.result()})
            except Exception as error:
                if strict:
                    raise
                why = f"version {named[name].champion} could not be loaded: {' '.join(str(error).split())}"
                LOG.error("%s: %s", name, why)
                self.view = replace(self.view, troubles={**self.view.troubles, name: why})
        self._make_room()
        self._loaded(len(self._held), release.number)

    def watch(self, path: Path) -> None:
        """Install whatever release is put in place of the one at `path`, until `close`."""
        self._watcher = threading.Thread(target=self._watch, args=(path,), name="releases", daemon=True)
        self._watcher.start()

    def fetch(self, model: str, version: str) -> "Future[Resident]":
        """A version of the release, at once where it is in memory; the caller has seen that the release names it."""
        return self._have(model, version, self.view.release.models[model].versions[version])

    def close(self) -> None:
        """Stop looking for releases, and load no more."""
        self._ending.set()
        if self._watcher is not None:
            self._watcher.join()
        self._loader.shutdown(cancel_futures=True)

    def _have(self, model: str, version: str, served: Served) -> "Future[Resident]":
        name = (model, version)
        with self._lock:
            held = self._held.get(name)
            if held is not None and _is(held, served):
                self._held.move_to_end(name)
                return held
            coming = self._held[name] = self._loader.submit(self._load, model, version, served)
        coming.add_done_callback(lambda ended: self._settle(name, ended))
        return coming

    def _settle(self, name: Name, ended: "Future[Resident]") -> None:
        """A load that failed is tried again when it is asked for again."""
        if ended.cancelled() or ended.exception() is not None:
            with self._lock:
                if self._held.get(name) is ended:
                    del self._held[name]
        else:
            self._make_room()

    def _load(self, model: str, version: str, served: Served) -> Resident:
        """The version, its bytes checked against the release, and warm: a first sample is drawn before anyone waits."""
        from components import sampling

        endpoint = sampling.load(self._locate(served), digest=served.digest)
        first = self._batcher.submit(
            (model, version), endpoint, [0], endpoint.checked({}), always=True, given=endpoint.example()
        )
        first.done.result()
        return Resident(model, version, served, endpoint, since=int(time.time()))

    def _make_room(self) -> None:
        """Let go of versions without an alias, beyond the few that were used last."""
        models = self.view.release.models
        kept = {(name, version) for name, model in models.items() for version in model.aliases.values()}
        kept |= {(name, resident.version) for name, resident in self.view.champions.items()}
        with self._lock:
            spare = [name for name, held in self._held.items() if name not in kept and held.done()]
            gone = spare[: max(0, len(spare) - SPARE)]
            for name in gone:
                del self._held[name]
        for name in gone:
            self._batcher.forget(name)

    def _watch(self, path: Path) -> None:
        stamp: tuple[int, ...] | None = None
        told, tried = "", 0.0
        while not self._ending.wait(LOOK_SECONDS):
            try:
                found = path.stat()
                seen = (found.st_mtime_ns, found.st_ino, found.st_size)
                again = bool(self.view.troubles) and time.monotonic() - tried > RETRY_SECONDS
                if seen == stamp and not again:
                    continue
                release, stamp, tried = releases.read(path), seen, time.monotonic()
                if release.number >= self.view.release.number:
                    self.install(release)
                told = ""
            except FileNotFoundError:
                continue
            except (AtelierError, OSError) as error:
                if told != str(error):
                    LOG.error("the release stays as it is: %s", error)
                told = str(error)
            except Exception:
                LOG.exception("the release stays as it is")


def _is(held: "Future[Resident]", served: Served) -> bool:
    """Whether what is held, or on its way, are the bytes that the release means."""
    if not held.done():
        return True
    return held.exception() is None and held.result().served.digest == served.digest
