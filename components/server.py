"""A Bento as a running server: started, asked for a sample as proof, stopped.

The server runs from the Bento's own folder with no path into this checkout, so that what answers is what was packaged.
"""

import base64
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from components import modalities
from components.errors import AtelierError

if TYPE_CHECKING:
    from components.ledger import Version

READY_SECONDS = 90.0  # a start takes about 3 on two idle cores, and many times that on a busy machine
LOG_LINES = 8
HELD_BACK_AT_MOST = 16  # samples in a row: a model of which more are is of no use
TIME = re.compile(r"^\d{4}-\d\d-\d\dT\S+ ")

Answer = tuple[int, Message, bytes]


def serve(tag: str, *, home: Path, host: str, port: int, settings: Mapping[str, str] | None = None) -> None:
    """Run the server of a Bento of the store `home` in the foreground until Ctrl-C or SIGTERM, which end it whole.

    `settings` are the service's own variables, `ATELIER_...`: it sees no others of them. Raises an `AtelierError` where
    the Bento is not there, the address cannot be had, or the server ends by itself.
    """
    folder = place(tag, home=home)
    refuse_taken(host, port)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    process = subprocess.Popen(
        _command([sys.executable], tag, host, port), cwd=folder, env=environment(home) | dict(settings or {}),
        process_group=0, stdin=subprocess.DEVNULL, stdout=sys.stderr.fileno(),
    )  # fmt: skip
    server = Server(process)
    try:
        while True:
            server.check()
            time.sleep(0.5)
    except KeyboardInterrupt:
        return
    except AtelierError as error:
        raise AtelierError(f"{error}; its last words are above") from None
    finally:
        server.stop()
        signal.signal(signal.SIGTERM, before)


@dataclass(frozen=True)
class Drawn:
    """A sample that a server answered with, and the suffix of a file that holds one."""

    payload: bytes
    suffix: str


def smoke(tag: str, *, version: "Version", spec: Mapping[str, Any], home: Path) -> Drawn:
    """Serve a built Bento as a user would and question it; the sample that it drew.

    Raises an `AtelierError` with the server's last words where it does not start in time, or fails `question`.
    """
    with running(tag, home=home) as url:
        return question(url, model=version.model, digest=version.bundle, modality=version.modality, spec=spec)


def question(url: str, *, model: str, digest: str, modality: str, spec: Mapping[str, Any]) -> Drawn:
    """A sample of seed 0, or of the next that is not held back, from the server at `url`, in the model's media type.

    Raises an `AtelierError` where the server answers from other bytes than `digest`, in another media type than its
    modality's, or with what that modality's codec refuses for a model of this `spec`; where it draws two samples from
    one seed, or takes a control that the model does not have. A model that edits is given an example of its modality.
    """
    codec = modalities.part(modality, "codec")
    card = _card(url, model)
    told: str = card["media_type"]
    if told != codec.MEDIA_TYPE:
        raise AtelierError(
            f"{model} says that it answers in {told}, and a model of {modality} does in {codec.MEDIA_TYPE}"
        )
    asked: dict[str, Any] = {"model": model, "seed": 0}
    if card.get("edits"):
        asked["image"] = base64.b64encode(codec.example(spec)).decode()
    status, headers, sample = _ask(f"{url}/v1/generate", asked, accept=_bare(told))
    while status == 400 and b'"content_filter"' in sample and asked["seed"] < HELD_BACK_AT_MOST:
        asked["seed"] += 1  # what moderation holds back is no fault of the server's
        status, headers, sample = _ask(f"{url}/v1/generate", asked, accept=_bare(told))
    if status != 200:
        raise AtelierError(f"{model} answered {status} to {asked}: {_text(sample)}")
    if headers["X-Model-Digest"] != digest:
        raise AtelierError(f"{model} answered from {headers['X-Model-Digest']} instead of {digest}")
    if _bare(headers["Content-Type"] or "") != _bare(told):
        raise AtelierError(f"{model} answered in {headers['Content-Type']} instead of {told}")
    _refuse_sample(sample, codec, spec)
    if _ask(f"{url}/v1/generate", asked, accept=_bare(told))[2] != sample:
        raise AtelierError(f"{model} drew two different samples from one seed; its family must draw from it alone")
    status, _, answer = _ask(f"{url}/v1/generate", asked | {"controls": {"no-such-control": 1}})
    if status != 400:
        raise AtelierError(f"{model} answered {status} to a control that it does not have: {_text(answer)}")
    return Drawn(sample, codec.SUFFIX)


def place(tag: str, *, home: Path) -> Path:
    """The folder of a Bento in the store `home`; an `AtelierError` where there is none."""
    folder = home / "bentos" / tag.replace(":", "/")
    if not (folder / "bento.yaml").is_file():
        raise AtelierError(f"there is no Bento {tag} in {home}; package a promoted version to make one")
    return folder


def environment(home: Path) -> dict[str, str]:
    """What BentoML's processes see: its home, no telemetry, no path into this checkout, no setting of the service."""
    kept = {
        name: value for name, value in os.environ.items() if name != "PYTHONPATH" and not name.startswith("ATELIER_")
    }
    quiet = {"BENTOML_DO_NOT_TRACK": "True", "DO_NOT_TRACK": "true"}
    # A Bento stays as it was signed, file for file.
    return kept | quiet | {"BENTOML_HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"}


def last_lines(text: str) -> str:
    """The end of a log as one line, each of its lines once, without the places and marks of a traceback.

    A line counts as the same whatever its time: a worker that fails is started again, and fails the same way.
    """
    lines = {TIME.sub("", line.strip()): line.strip() for line in reversed(text.splitlines())}
    told = [line for line in reversed(lines.values()) if line.strip("^~ ") and not line.startswith('File "')]
    return " | ".join(told[-LOG_LINES:])


class Server:
    """A server's process and its worker, which has a process group of its own."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self.process = process
        self.workers: set[Any] = set()  # psutil's processes, which a reused id does not deceive

    def check(self) -> None:
        """Raise an `AtelierError` where the server ended, or lost its worker: BentoML would wait for ever then."""
        if (code := self.process.poll()) is not None:
            raise AtelierError(f"the server ended with {code}")
        now = _workers(self.process.pid)
        if self.workers and not now:
            raise AtelierError("the server's worker ended")
        self.workers |= now

    def stop(self) -> None:
        """End the server, and with it its worker; kill what is left after 10 seconds."""
        import psutil

        if self.process.poll() is None:
            self.workers |= _workers(self.process.pid)
            self.process.terminate()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for left in psutil.wait_procs(self.workers, timeout=2)[1]:
            left.kill()


@contextmanager
def running(
    tag: str, *, home: Path, python: Sequence[str] = (sys.executable,), seen: Mapping[str, str] | None = None
) -> Iterator[str]:
    """The address of a server of the Bento that is ready; it is stopped with all its processes at the end.

    `python` starts the interpreter that it runs in, and `seen` is the environment that it sees.
    """
    folder, port = place(tag, home=home), _free_port()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            _command(python, tag, "127.0.0.1", port), cwd=folder,
            env=environment(home) if seen is None else dict(seen),
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
        server = Server(process)
        try:
            _wait(server, url := f"http://127.0.0.1:{port}")
            yield url
        except (AtelierError, OSError) as error:
            server.stop()
            log.seek(0)
            words = last_lines(log.read().decode(errors="replace"))
            raise AtelierError(f"the Bento {tag} failed its smoke test: {error}. Its last words: {words}") from None
        finally:
            server.stop()


def _wait(server: Server, url: str) -> None:
    until = time.monotonic() + READY_SECONDS
    while time.monotonic() < until:
        server.check()
        try:
            with _opener().open(f"{url}/readyz", timeout=2):
                return
        except OSError:
            time.sleep(0.05)
    raise AtelierError(f"the server was not ready within {READY_SECONDS:.0f} s")


def _workers(server: int) -> set[Any]:
    import psutil

    found = set()
    for child in psutil.Process(server).children():
        with suppress(psutil.Error):
            if "_bentoml_impl.worker.service" in child.cmdline():
                found.add(child)
    return found


def _card(url: str, model: str) -> dict[str, Any]:
    """What the server's own list of models says of this one."""
    status, _, answer = _ask(f"{url}/v1/models")
    try:
        cards = {card["id"]: card for card in json.loads(answer)["data"]}
        card: dict[str, Any] = cards[model]
        if not isinstance(card["media_type"], str):
            raise TypeError
        return card
    except (ValueError, KeyError, TypeError):
        raise AtelierError(f"the server does not list {model}: it answered {status} with {_text(answer)}") from None


def _ask(url: str, body: Mapping[str, Any] | None = None, *, accept: str = "application/json") -> Answer:
    """What the server answers to a GET, or to a POST of a body."""
    sent = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, sent, {"Content-Type": "application/json", "Accept": accept})
    try:
        with _opener().open(request, timeout=60) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


def _opener() -> urllib.request.OpenerDirector:
    """One that goes to loopback straight, whatever proxy the environment names."""
    return urllib.request.build_opener(urllib.request.ProxyHandler({}))


def _refuse_sample(payload: bytes, codec: ModuleType, spec: Mapping[str, Any]) -> None:
    if not payload:
        raise AtelierError("an empty sample was answered")
    try:
        codec.judge(payload, spec)
    except Exception as error:  # noqa: BLE001 - a decoder raises anything at all on bytes that are none of its own
        raise AtelierError(
            f"what was answered is no {_bare(codec.MEDIA_TYPE)}: {' '.join(str(error).split())}"
        ) from None


def _bare(media_type: str) -> str:
    """A media type without its parameters."""
    return media_type.partition(";")[0].strip()


def _command(python: Sequence[str], tag: str, host: str, port: int) -> list[str]:
    return [*python, "-m", "bentoml", "serve", tag, "--host", host, "--port", str(port)]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def refuse_taken(host: str, port: int) -> None:
    """Raise an `AtelierError` where nothing can listen on that address now."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise AtelierError(
                f"cannot listen on {host}:{port}: {error.strerror}. Another server may run there; stop it, or choose "
                "another port with --port."
            ) from None


def _text(answer: bytes) -> str:
    return answer[:500].decode(errors="replace")
