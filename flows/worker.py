"""Runs what is scheduled, `python -m flows.worker`, one per workspace: Prefect's runner, and what is to be seen to.

Its ticks tell Prefect of events, look for changed data and old champions, put back runs whose process is gone, and make
up for starts that were missed and for events whose run Prefect never made.
"""

import argparse
import asyncio
import http.server
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from components.errors import AtelierError
from flows import events, flow_runs, heartbeat, leash, lookout, notices, runs, schedules, standing, workspace
from flows.alone import only
from flows.resumption import MARK, Resumption
from flows.schedules import RETRAIN, Applied
from flows.workspace import Workspace

QUERY_SECONDS = 2.0  # between two questions to Prefect for what is due
PREFETCH_SECONDS = 15  # a process is started so long before its run is due, as its imports take some seconds
TICK_SECONDS = 2.0
SLOW_TICK_SECONDS = 15.0  # for what costs more, or is not urgent
HANGING_SECONDS = 120.0  # without a tick, and it is not well
MEND_SECONDS = 30.0  # that Prefect has for making a run of an event, beside what its events are gathered for
GRACE_SECONDS = 10.0  # for runs, when the worker ends
LOOK_BACK = timedelta(days=7)
PAGE_SECONDS = 60.0  # between two writings of how things stand


class Worker:
    """What is done at each tick; Prefect's runner goes on in a thread of its own."""

    def __init__(self, place: Workspace, *, limit: int) -> None:
        self.place = place
        self.runner = _Runner(limit)
        self.status: dict[str, Any] = {"pid": os.getpid(), "since": _now(), "errors": {}, "actions": []}
        self._resumption = Resumption()
        self._alive: datetime | None = None
        self._missed = True  # there may be starts that nobody has looked at
        self._slow = self._paged = -PAGE_SECONDS
        self._ticked: float | None = None

    def tick(self) -> None:
        """Everything that is due now. What fails is told once, and tried again at the next."""
        with self._told("heartbeat"):
            alive = heartbeat.beat(self.place, self.status)
            self._missed = self._missed or alive != self._alive
            self._alive = alive
        with self._told("late starts"):
            if self._missed:
                self._give_way()
                self._missed = False
        with self._told("schedules"):
            known = schedules.applied(self.place)
            self.runner.serve({UUID(i): one.model for one in known.values() for i in one.deployments.values()})
        with self._told("events"):
            events.forward(self.place)
        with self._told("dead runs"):
            self._resume(list(self.runner.served))
        if time.monotonic() - self._slow >= SLOW_TICK_SECONDS:
            self._slow = time.monotonic()
            with self._told("data and champions"):
                lookout.look(self.place, known.values())
            with self._told("lost events"):
                self._mend(known.values())
            with self._told("notices"):
                notices.deliver(self.place)
        if time.monotonic() - self._paged >= PAGE_SECONDS:
            self._paged = time.monotonic()
            with self._told("page"):
                standing.write(self.place)
        self._ticked = time.monotonic()

    def health(self) -> dict[str, Any]:
        """Whether it ticks. A Prefect that does not answer is among its errors: what else it does, it does still."""
        age = None if self._ticked is None else time.monotonic() - self._ticked
        errors = dict(self.status["errors"]) | ({} if self.runner.running else {"runner": "it waits for Prefect"})
        return {"well": age is not None and age < HANGING_SECONDS, "errors": errors}

    def _give_way(self) -> None:
        """Close the starts that were missed and are not made up for, before any process is started for them."""
        from prefect.states import Completed

        from flows import lateness

        known = {UUID(one.deployments[RETRAIN]): one for one in schedules.applied(self.place).values()}
        if not known:
            return
        with _client() as client:
            before = datetime.now(UTC) - timedelta(seconds=lateness.GRACE_SECONDS)
            due = client.get_scheduled_flow_runs_for_deployments(list(known), scheduled_before=before, limit=200)
            for flow_run in due:
                one = known.get(flow_run.deployment_id) if flow_run.auto_scheduled else None
                if one is not None and (why := lateness.superseded(self.place, one, flow_run)):
                    client.set_flow_run_state(flow_run.id, Completed(name="Skipped", message=why), force=True)
                    self._act(one.model, why)
        for one in known.values():
            if (one.schedule or {}).get("catch_up") == "all" and not one.paused:
                self._make_up(one)

    def _make_up(self, one: Applied) -> None:
        """Make the starts that Prefect has not even planned while it was down, at most `lateness.MOST` of them."""
        from flows import lateness

        with _client() as client:
            for due in lateness.unplanned(client, one, now=datetime.now(UTC)):
                lateness.plan(client, one, due)
                self._act(
                    one.model, f"the start of {due:%Y-%m-%d %H:%M} UTC, missed while all was down, is made up for"
                )

    def _resume(self, deployments: list[UUID]) -> None:
        runs_killed = runs.bury(self.place)
        for killed in runs_killed:
            if killed.flow_run is None:
                events.tell(
                    self.place, "run.failed", model=killed.model, why="its process was killed; run again, it goes on",
                    facts={"run": killed.id, "cause": killed.why, "exit_code": killed.exit_code, "outcome": "killed"},
                )  # fmt: skip
        if not deployments:
            return
        with _client() as client:
            for flow_run, goes_on in self._resumption.look(client, deployments):
                model = self.runner.served.get(flow_run.deployment_id, "")
                words = "is gone on with" if goes_on else "was closed"
                self._act(model, f"the process of its run {flow_run.id} is gone; the run {words}")
                if not goes_on:
                    events.tell(
                        self.place, "run.failed", model=model, why="its process went too often, or it was cancelled",
                        facts={"flow_run": str(flow_run.id), "outcome": "killed"},
                    )  # fmt: skip

    def _mend(self, scheduled: Any) -> None:
        """Make a run of events that no run covers, and that Prefect, killed at the wrong moment, made none of."""
        now = datetime.now(UTC)
        told = events.since(self.place, now - LOOK_BACK, limit=10_000)
        for one in scheduled:
            if one.paused or (event := _uncovered(self.place, one, told, now)) is None:
                continue
            with _client() as client:
                deployment = UUID(one.deployments[RETRAIN])
                if _is_planned(client, deployment, datetime.fromisoformat(event.time)):
                    continue
                parameters = {"model": one.model, "recipe": one.recipe, "event": event.kind, "detail": event.why}
                client.create_flow_run_from_deployment(deployment, parameters=parameters, idempotency_key=event.id)
                self._act(one.model, f"Prefect made no run of {event.kind} ({event.why}); it has one now")

    def _act(self, model: str, what: str) -> None:
        self.status["actions"] = [*self.status["actions"], {"time": _now(), "model": model, "what": what}][-20:]
        _say(f"{model}: {what}")

    @contextmanager
    def _told(self, topic: str) -> Iterator[None]:
        """Put an error into the log and the status once, until it is over; the next thing is done all the same."""
        known: dict[str, str] = self.status["errors"]
        try:
            yield
        except Exception as error:  # noqa: BLE001 - of a server that is down now, of another part: the worker goes on
            words = f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]
            if known.get(topic) != words:
                _say(f"{topic}: {words}")
            known[topic] = words
        else:
            if known.pop(topic, None) is not None:
                _say(f"{topic}: well again")


class _Runner:
    """Prefect's runner in a thread, which begins anew where it ends by itself; `serve` says what it runs."""

    def __init__(self, limit: int) -> None:
        self.served: dict[UUID, str] = {}
        self.running = False
        self._limit = limit
        self._runner: Any = None

    def serve(self, deployments: dict[UUID, str]) -> None:
        """Run these deployments, by id and model, from now on, and no others."""
        self.served = deployments
        runner = self._runner
        if runner is not None:
            # No public call serves a deployment without writing it anew, which would cost it the starts that are late.
            registry = runner._deployment_registry
            registry._deployment_ids = set(deployments)
            registry._deployment_name_map = dict(deployments)

    def start(self) -> None:
        threading.Thread(target=self._run, name="runner", daemon=True).start()

    def _run(self) -> None:
        while True:
            self.running = True
            try:
                asyncio.run(self._serve())
            except Exception as error:  # noqa: BLE001 - Prefect's server was away for long: its runner gives up, we do not
                _say(f"Prefect's runner ended ({type(error).__name__}: {error}); it begins anew")
            self.running = False
            time.sleep(QUERY_SECONDS)

    async def _serve(self) -> None:
        import httpx
        from prefect.runner import Runner

        runner: Any = Runner(
            name="atelier", query_seconds=QUERY_SECONDS, prefetch_seconds=PREFETCH_SECONDS, limit=self._limit,
            pause_on_shutdown=False,
        )  # fmt: skip
        async with runner:
            poller, ask = runner._scheduled_run_poller, runner._scheduled_run_poller._get_scheduled_flow_runs

            async def patiently() -> list[Any]:
                """Nothing is due while the server is away: a few refusals would end the runner and its runs."""
                try:
                    return list(await ask()) if self.served else []
                except httpx.HTTPError:
                    return []

            poller._get_scheduled_flow_runs = patiently
            self._runner = runner
            self.serve(self.served)
            await poller.run()


def _uncovered(place: Workspace, one: Applied, told: list[events.Event], now: datetime) -> events.Event | None:
    """The newest event that should have started a run of the model, long enough ago, and has not."""
    patience = timedelta(seconds=2 * one.wait + MEND_SECONDS)
    wanted = [
        event for event in told
        if event.time > one.since and now - datetime.fromisoformat(event.time) > patience and _starts(one, event)
    ]  # fmt: skip
    if not wanted or runs.covering(place, one.model, datetime.fromisoformat(wanted[-1].time)) is not None:
        return None
    return wanted[-1]


def _starts(one: Applied, event: events.Event) -> bool:
    """Whether an event is one that starts a run of the model."""
    if event.kind == "champion.moved":
        return event.model in one.upstream
    return event.model == one.model and event.kind in one.kinds


def _is_planned(client: Any, deployment: UUID, since: datetime) -> bool:
    """Whether a run of the deployment that will cover events up to a time waits or is on."""
    states = ["SCHEDULED", "PENDING", "RUNNING", "CRASHED"]
    found = flow_runs.read(client, [deployment], states=states, after=since, limit=50)
    return any(not flow_run.auto_scheduled for flow_run in found)


@contextmanager
def _client() -> Iterator[Any]:
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        yield client


def run(place: Workspace, *, port: int, limit: int) -> None:
    """Work until SIGTERM or Ctrl-C; an `AtelierError` where the workspace has a worker already."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with only(place, "worker"):
        worker = Worker(place, limit=limit)
        server = _serve_health(port, worker.health)
        _say(f"worker of {place.root} on 127.0.0.1:{server.server_port}, {limit} runs at a time")
        worker.tick()  # first: what was missed gives way before the runner takes it up
        worker.runner.start()
        while not stop.wait(TICK_SECONDS):
            worker.tick()
        _end_runs()


def _end_runs() -> None:
    """End the runs that are on; the next worker goes on with them."""
    until = time.monotonic() + GRACE_SECONDS
    while (mine := _runs_on()) and time.monotonic() < until:
        for pid in mine:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        time.sleep(1)


def _runs_on() -> list[int]:
    """The processes of flow runs that this worker has started, and what those started."""
    mark = os.environ.get(leash.MARK, "")
    found = []
    for pid in leash.marked(mark, name=leash.MARK):
        with suppress(OSError):
            if f"{MARK}=".encode() in Path(f"/proc/{pid}/environ").read_bytes():
                found.append(pid)
    return found


def _serve_health(port: int, health: Callable[[], dict[str, Any]]) -> http.server.ThreadingHTTPServer:
    class Handler(http.server.BaseHTTPRequestHandler):
        timeout = 5

        def do_GET(self) -> None:
            told = health()
            body = json.dumps(told).encode()
            self.send_response(200 if told["well"] else 503)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Nothing: it is asked every other second."""

    try:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
    except OSError as error:
        raise AtelierError(
            f"the worker cannot listen on port {port}: {error.strerror}. Give it another --port."
        ) from None
    threading.Thread(target=server.serve_forever, name="health", daemon=True).start()
    return server


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _say(words: str) -> None:
    print(f"{_now()} {words}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m flows.worker", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--project", type=Path, default=Path.cwd(), help="a folder of the project; the current one")
    parser.add_argument("--port", type=int, default=3002, help="where it says how it is, on loopback")
    parser.add_argument("--limit", type=int, default=max(1, len(os.sched_getaffinity(0)) // 2), help="runs at a time")
    asked = parser.parse_args()
    try:
        place = workspace.find(asked.project)
        workspace.enter(place, patient=True)  # its runs take over this environment
        workspace.keep_log(place)
        leash.tie()
        run(place, port=asked.port, limit=asked.limit)
    except AtelierError as error:
        _say(str(error))
        sys.exit(error.exit_code)
    os._exit(0)  # the runner's thread has nothing to add


if __name__ == "__main__":
    main()
