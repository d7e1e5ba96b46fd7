"""The models in memory: a new champion is loaded and warmed beside the old one, and then a pointer flips.

What a request may name follows from the release record alone. Versions that are no champion are loaded when they are
first asked for, a few at most waiting, and those without an alias make room for others, the least used first. Champions
have a loader of their own, so that no flood of requests for old versions holds a promotion up.
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
from serving.batching import Batcher, Busy, Name
from serving.release import Release, Served

if TYPE_CHECKING:
    from components.sampling import Endpoint

LOG = logging.getLogger("atelier.serving")
SPARE = 4  # versions without an alias that stay in memory
MOST_WAITING = 4  # versions that wait to be loaded, beside the one that is
LOOK_SECONDS = 0.2  # between looks at the release record
RETRY_SECONDS = 10.0  # before a champion that could not be loaded is tried again
LATER_SECONDS = 5.0  # until who found too many versions waiting may ask again

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
    """Loads what a release names, on threads of its own, while the models go on answering."""

    def __init__(
        self, batcher: Batcher, locate: Locate, *, loaded: Callable[[int, int], None] = lambda n, r: None
    ) -> None:
        self.view = View()
        self._batcher, self._locate, self._loaded = batcher, locate, loaded
        self._champions, self._others = ThreadPoolExecutor(1, "champions"), ThreadPoolExecutor(1, "loader")
        self._lock = threading.Lock()
        self._waiting: set[Future[Resident]] = set()  # asked for by requests, and not begun
        self._held: OrderedDict[Name, Future[Resident]] = OrderedDict()  # the least lately used first
        self._ending = threading.Event()
        self._watcher: threading.Thread | None = None

    def install(self, release: Release, *, strict: bool = False) -> None:
        """Serve a release: each champion that can be loaded takes over, and one that cannot leaves the old one.

        What the release offers no more is let go of at once: a champion that was withdrawn, whatever comes after it.
        With `strict` the error of a champion that cannot be loaded is raised instead.
        """
        champions = {name: held for name, held in self.view.champions.items() if _may_stay(held, release)}
        self.view = View(release, champions)
        named = {name: model for name, model in release.models.items() if model.champion is not None}
        coming = {name: self._champion(name, str(m.champion), m.versions[str(m.champion)]) for name, m in named.items()}
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
        """A version of the release, at once where it is in memory; the caller has seen that the release names it.

        `Busy` where it is not, and too many others wait to be loaded.
        """
        served = self.view.release.models[model].versions[version]
        with self._lock:
            coming, new = self._have((model, version), served)
            if new and (self._ending.is_set() or len(self._waiting) >= MOST_WAITING):
                raise Busy(LATER_SECONDS)
            if new:
                self._hold(model, version, coming)
                self._waiting.add(coming)
                self._others.submit(self._load, model, version, served, coming)
        return coming

    def close(self) -> None:
        """Stop looking for releases, and load no more."""
        self._ending.set()
        if self._watcher is not None:
            self._watcher.join()
        for loader in (self._champions, self._others):
            loader.shutdown(cancel_futures=True)
        with self._lock:
            for held in self._held.values():
                held.cancel()  # whoever waits hears of it

    def _champion(self, model: str, version: str, served: Served) -> "Future[Resident]":
        """A version that is to be champion. One that a request asked for before, and that waits, waits no longer."""
        with self._lock:
            coming, new = self._have((model, version), served)
            if new:
                self._hold(model, version, coming)
            if not coming.done():
                self._champions.submit(self._load, model, version, served, coming)  # whichever loader comes first
        return coming

    def _have(self, name: Name, served: Served) -> "tuple[Future[Resident], bool]":
        """What is held under a name, or on its way; else a new one, and that it is."""
        held = self._held.get(name)
        if held is not None and _is(held, served):
            self._held.move_to_end(name)
            return held, False
        return Future(), True

    def _hold(self, model: str, version: str, coming: "Future[Resident]") -> None:
        self._held[model, version] = coming
        self._held.move_to_end((model, version))

    def _load(self, model: str, version: str, served: Served, coming: "Future[Resident]") -> None:
        """Load the version, unless the other loader has begun that. What failed is tried when it is asked for again."""
        with self._lock:
            self._waiting.discard(coming)
            if coming.running() or coming.done() or not coming.set_running_or_notify_cancel():
                return
        try:
            resident = self._loaded_and_warm(model, version, served)
        except BaseException as error:  # noqa: BLE001 - it belongs to whoever waits
            with self._lock:
                if self._held.get((model, version)) is coming:
                    del self._held[model, version]
            coming.set_exception(error if isinstance(error, Exception) else RuntimeError(repr(error)))
        else:
            coming.set_result(resident)
            self._make_room()

    def _loaded_and_warm(self, model: str, version: str, served: Served) -> Resident:
        """The version, its bytes checked against the release, and warm: two samples are drawn before anyone waits.

        The first loads and compiles what it needs, the second tells how long one takes.
        """
        from components import sampling

        endpoint = sampling.load(self._locate(served), digest=served.digest)
        for _ in range(2):
            drawn = self._batcher.submit(
                (model, version), endpoint, [0], endpoint.checked({}), always=True, given=endpoint.example()
            )
            drawn.done.result()
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
                self.install(release)  # whatever its number: who writes it sees to it that it is not older
                told = ""
            except FileNotFoundError:
                continue
            except (AtelierError, OSError) as error:
                if told != str(error):
                    LOG.error("the release stays as it is: %s", error)
                told = str(error)
            except Exception:
                LOG.exception("the release stays as it is")


def _may_stay(held: Resident, release: Release) -> bool:
    """Whether a champion may go on being served until the release's own is in memory."""
    model = release.models.get(held.model)
    if model is None or model.champion is None:
        return False
    offered = model.versions.get(held.version)
    return offered is not None and offered.digest == held.served.digest


def _is(held: "Future[Resident]", served: Served) -> bool:
    """Whether what is held, or on its way, are the bytes that the release means."""
    if not held.done():
        return True
    return not held.cancelled() and held.exception() is None and held.result().served.digest == served.digest
