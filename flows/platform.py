"""`atelier up`: the embedded platform on loopback as one command: MLflow, Prefect, the controller, the endpoints,
the worker of what is scheduled.
"""

import ipaddress
import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.table import Table

from components import mlflow_database
from components.closure import ROOT
from components.errors import AtelierError
from components.packaging import SERVICE
from components.process import born, locked
from components.server import Server
from components.store import write_atomically
from flows import champions, keys, leash, rollout, standing, webhook, workspace
from flows.supervisor import GRACE_SECONDS, Part, Supervisor
from flows.workspace import Workspace

START_SECONDS = 240.0  # a first start migrates two databases and compiles nothing; a busy machine takes its time
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Ports:
    """Where each part listens."""

    mlflow: int = 5000
    prefect: int = 4200
    controller: int = 3001
    endpoints: int = 3000
    worker: int = 3002


@dataclass(frozen=True)
class Platform:
    """What is started for a workspace; `host` is where the endpoints listen, all else stays on loopback.

    A tracking server or a Prefect of the person's own, named in the environment, is used instead of one of ours.
    """

    place: Workspace
    ports: Ports
    host: str = LOOPBACK

    def parts(self) -> list[Part]:
        """The parts in the order of the line; the controller waits for MLflow to set its database up."""
        own = [] if self.tracking_server else [self._mlflow()]
        own += [] if self.prefect_server else [self._prefect()]
        return [*own, self._controller(), self._endpoints(), self._worker()]

    @property
    def tracking_server(self) -> str | None:
        uri = self.place.tracking_uri
        return uri if uri.startswith(("http://", "https://")) else None

    @property
    def prefect_server(self) -> str | None:
        return os.environ.get("PREFECT_API_URL")

    def _mlflow(self) -> Part:
        port = self.ports.mlflow
        return self._part(
            "mlflow", "MLflow", port, "/health",
            ["mlflow", "server", "--host", LOOPBACK, "--port", str(port), "--workers", "1",
             "--default-artifact-root", self.place.runs.as_uri()],
            {
                "MLFLOW_BACKEND_STORE_URI": self.place.tracking_uri,  # it may hold a password: not for `ps`
                "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http,https",
                "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
                "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": webhook.secret(self.place, "mlflow.key"),
                "MLFLOW_WEBHOOK_CACHE_TTL": "1",
                "MLFLOW_WEBHOOK_REQUEST_TIMEOUT": "5",
            },
        )  # fmt: skip

    def _prefect(self) -> Part:
        port = self.ports.prefect
        return self._part(
            "prefect", "Prefect", port, "/api/health",
            ["flows.prefect_server", "server", "start", "--host", LOOPBACK, "--port", str(port)],
            {"PREFECT_UI_API_URL": f"http://{LOOPBACK}:{port}/api"},
        )  # fmt: skip

    def _controller(self) -> Part:
        port = self.ports.controller
        server = self.tracking_server or f"http://{LOOPBACK}:{self.ports.mlflow}"
        return self._part(
            "controller", "Controller", port, "/healthz",
            ["flows.controller", "--project", str(self.place.project), "--port", str(port), "--mlflow", server],
            {}, after=None if self.tracking_server else "mlflow",
        )  # fmt: skip

    def _worker(self) -> Part:
        port = self.ports.worker
        server = self.prefect_server or f"http://{LOOPBACK}:{self.ports.prefect}/api"
        return self._part(
            "worker", "Worker", port, "/healthz",
            ["flows.worker", "--project", str(self.place.project), "--port", str(port)],
            {"PREFECT_API_URL": server}, after=None if self.prefect_server else "prefect",
        )  # fmt: skip

    def _endpoints(self) -> Part:
        port, place = self.ports.endpoints, self.place
        return self._part(
            "endpoints", "Endpoints", port, "/readyz",
            ["bentoml", "serve", SERVICE, "--host", self.host, "--port", str(port)],
            # Whatever the environment says otherwise, promotions are in the workspace's release.
            {
                **champions.settings(place),
                "ATELIER_RELEASE": str(place.release),
                "ATELIER_STATUS": str(standing.file(place)),
                "BENTOML_HOME": str(place.bentos),
            },
            host=self.host, watch=lambda process: Server(process).check,
        )  # fmt: skip

    def _part(
        self,
        name: str,
        title: str,
        port: int,
        health: str,
        module: list[str],
        settings: dict[str, str],
        *,
        host: str = LOOPBACK,
        after: str | None = None,
        watch: Callable[[Any], Callable[[], None]] | None = None,
    ) -> Part:
        shown = {"0.0.0.0": LOOPBACK, "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
        common = {"PYTHONUNBUFFERED": "1", "ATELIER_WORKSPACE": str(self.place.root), "PREFECT_API_URL": ""}
        environment = {**os.environ, **common, **settings}
        if not environment["PREFECT_API_URL"]:
            del environment["PREFECT_API_URL"]
        return Part(
            name=name, title=title, url=f"http://{shown}:{port}", health=health, folder=ROOT,
            command=[sys.executable, "-m", *module], environment=environment,
            log=self.place.root / "logs" / f"{name}.log", after=after, watch=watch,
        )  # fmt: skip


def up(platform: Platform, *, say: Callable[[str], None], ready: Callable[[Supervisor], None]) -> None:
    """Run the platform until Ctrl-C or SIGTERM; `ready` is called once everything is well.

    An `AtelierError` where the workspace is up already, a port is taken, the endpoints would be open to others without
    keys, or a part does not start.
    """
    place = platform.place
    with _alone(place):
        _refuse_open(platform)
        refuse_taken(platform)
        keys.init_signing(place)  # the endpoints read it as they start, and may be up before the first run
        rollout.publish(place)
        mlflow_database.make_whole(place.tracking_uri)
        leash.tie(grace=GRACE_SECONDS)
        supervisor = Supervisor(platform.parts(), say=say, changed=lambda parts: _note(platform, parts))
        try:
            supervisor.start(within=START_SECONDS)
            ready(supervisor)
            supervisor.keep()
        except KeyboardInterrupt:
            say("stopping")
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):  # nothing is left half stopped; the leash does what we miss
                signal.signal(number, signal.SIG_IGN)
            supervisor.stop()
            place.up.unlink(missing_ok=True)


def table(platform: Platform, supervisor: Supervisor) -> Table:
    """Where everything is, for a person."""
    rows = Table.grid(padding=(0, 2))
    notes = {
        "mlflow": "runs, models; move `champion` there",
        "prefect": "the line's runs",
        "controller": "webhooks of MLflow",
        "endpoints": "playground, /v1",
        "worker": "runs what is scheduled",
    }
    pages = {"mlflow": "/#/models"}  # its front page has no way to the models
    for name, kept in supervisor.kept.items():
        rows.add_row(
            f"[bold]{kept.part.title}[/bold]", kept.part.url + pages.get(name, ""), f"[dim]{notes[name]}[/dim]"
        )
    for title, url in (("MLflow", platform.tracking_server), ("Prefect", platform.prefect_server)):
        if url:
            rows.add_row(f"[bold]{title}[/bold]", url, "[dim]your own[/dim]")
    return rows


def refuse_taken(platform: Platform) -> None:
    """Raise an `AtelierError` with a paragraph for each port that cannot be had."""
    wanted = {
        "controller": ("--controller-port", LOOPBACK),
        "endpoints": ("--port", platform.host),
        "worker": ("--worker-port", LOOPBACK),
    }
    if not platform.tracking_server:
        wanted["mlflow"] = ("--mlflow-port", LOOPBACK)
    if not platform.prefect_server:
        wanted["prefect"] = ("--prefect-port", LOOPBACK)
    told, seen = [], dict[int, str]()
    for name, (option, host) in wanted.items():
        port = getattr(platform.ports, name)
        if port in seen:
            told.append(f"port {port} is asked for twice, for {seen[port]} and {name}: give {option} another one.")
        elif why := _taken(host, port):
            told.append(
                f"port {port} on {host} cannot be had for {name}: {why}. Stop what listens there, or choose another "
                f"port with {option}."
            )
        seen[port] = name
    if told:
        raise AtelierError("\n".join(told))


def _taken(host: str, port: int) -> str | None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return f"{error.strerror or error}{_listener(port)}"
    return None


def _listener(port: int) -> str:
    """Which process listens there, where the system tells us."""
    import psutil

    for connection in psutil.net_connections("tcp"):
        here = tuple(connection.laddr)[1:2] == (port,)
        if here and connection.status == psutil.CONN_LISTEN and connection.pid:
            return f" (process {connection.pid}, {psutil.Process(connection.pid).name()})"
    return ""


def _refuse_open(platform: Platform) -> None:
    """Raise an `AtelierError` where the endpoints would listen to others and ask nobody for a key."""
    host = platform.host
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        raise AtelierError(f"--host {host!r} is no IP address; give one of this machine, such as 127.0.0.1") from None
    if not loopback and not keys.usable(Path(champions.settings(platform.place)["ATELIER_KEYS"])):
        raise AtelierError(
            f"the endpoints would listen on {host}, where others can reach them, and there are no API keys. Make one "
            "with `atelier keys make TEAM`, or leave --host out to stay on this machine."
        )


@contextmanager
def _alone(place: Workspace) -> Iterator[None]:
    place.locks.mkdir(parents=True, exist_ok=True)
    with (place.locks / "@up.lock").open("a") as lock:
        if not locked(lock.fileno()):
            running = workspace.servers(place) or {}
            raise AtelierError(
                f"the workspace {place.root} is up already (process {running.get('pid', 'only just started')}). "
                "`atelier status` shows it; stop it with Ctrl-C, or with kill and that process."
            )
        yield


def _note(platform: Platform, parts: dict[str, Any]) -> None:
    """Write down what runs where, for `atelier status` and for other commands of the workspace."""
    pid = os.getpid()
    told = {
        "schema": 1,
        "pid": pid,
        "born": born(pid),
        "written": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "host": platform.host,
        "tracking_server": platform.tracking_server,
        "prefect_server": platform.prefect_server,
        "parts": parts,
    }
    path: Path = platform.place.up
    write_atomically(path, (json.dumps(told, indent=2) + "\n").encode())
