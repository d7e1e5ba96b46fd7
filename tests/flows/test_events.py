"""Events are written down whole, read back in order, and told to Prefect at least once, in order, under their ids."""

import http.server
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from flows import events
from flows.workspace import Workspace


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    for name in ("PREFECT_API_URL", "PREFECT_API_KEY", "PREFECT_API_AUTH_STRING"):
        monkeypatch.delenv(name, raising=False)
    return Workspace(tmp_path, tmp_path / "workspace")


@dataclass
class Api:
    """Where Prefect would be asked, what it was told, and whether it takes it now."""

    url: str = ""
    up: bool = True
    told: list[dict[str, Any]] = field(default_factory=list)
    headers: list[Any] = field(default_factory=list)


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    api = Api()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            api.headers.append((self.path, self.headers))
            if api.up:
                api.told += told
            self.send_response(204 if api.up else 503)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    api.url = f"http://127.0.0.1:{server.server_port}/api"
    monkeypatch.setenv("PREFECT_API_URL", api.url)
    yield api
    server.shutdown()
    server.server_close()


def test_what_is_told_is_read_back_newest_last(place: Workspace) -> None:
    told = [events.tell(place, "drift.found", model="toy", why=f"psi {i}", facts={"psi": i}) for i in range(5)]
    assert events.since(place) == told
    assert events.since(place, limit=2) == told[-2:]
    assert events.since(place, datetime.fromisoformat(told[3].time)) == told[3:]
    assert events.since(place, datetime.now(UTC) + timedelta(hours=1)) == []
    assert told[0].facts == {"psi": 0} and told[0].model == "toy"


def test_long_files_are_read_from_their_end_and_months_in_order(place: Workspace) -> None:
    first = events.tell(place, "run.ended", model="toy", why="x" * 300)
    old = [replace(first, id=str(i), time=f"2020-01-{i % 28 + 1:02}T00:00:00.000000+00:00") for i in range(2000)]
    events.append(place, old)
    assert events.since(place, limit=2) == [old[-1], first]
    assert events.since(place, limit=5000) == [*old, first]


def test_a_line_that_was_cut_off_costs_itself_only(place: Workspace) -> None:
    before = events.tell(place, "run.ended", model="toy", why="passed")
    (path,) = events.folder(place).glob("*.jsonl")
    with path.open("ab") as file:
        file.write(b'{"id": "cut o')
    after = events.tell(place, "run.ended", model="toy", why="passed")
    with path.open("ab") as file:
        file.write(b'{"id": 1, "kind": "of.later", "time": "9", "model": "m", "why": "", "facts": {}}\n[]\n')
    assert events.since(place) == [before, after]


def test_many_that_tell_at_once_lose_nothing(place: Workspace) -> None:
    with ThreadPoolExecutor(8) as pool:
        told = list(pool.map(lambda i: events.tell(place, "data.changed", model=f"m{i}", why="new"), range(200)))
    assert {event.id for event in told} == {event.id for event in events.since(place, limit=1000)}


def test_prefect_is_told_at_once_and_later_what_it_missed(place: Workspace, api: Api) -> None:
    first = events.tell(place, "data.changed", model="toy", why="md5:2 after md5:1", facts={"version": "md5:2"})
    assert api.told == [
        {
            "id": first.id,
            "occurred": first.time,
            "event": "atelier.data.changed",
            "resource": {"prefect.resource.id": "atelier.model.toy", "prefect.resource.name": "toy"},
            "payload": {
                "model": "toy", "kind": "data.changed", "why": "md5:2 after md5:1", "facts": {"version": "md5:2"}
            },
        }
    ]  # fmt: skip
    api.up = False
    missed = [events.tell(place, "drift.found", model="toy", why=str(i)) for i in range(events.AT_ONCE + 5)]
    assert len(api.told) == 1 and events.since(place, limit=1) == missed[-1:]
    api.up = True
    assert events.forward(place) == len(missed) and events.forward(place) == 0
    assert [told["id"] for told in api.told] == [first.id, *(event.id for event in missed)]


def test_what_was_told_is_told_again_rather_than_lost(place: Workspace, api: Api) -> None:
    event = events.tell(place, "run.ended", model="toy", why="passed")
    (events.folder(place) / "forwarded.json").write_text("{ cut o")
    assert events.forward(place) == 1 and [told["id"] for told in api.told] == [event.id] * 2


def test_a_server_with_a_lock_is_given_what_its_client_would_give(
    place: Workspace, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "admin:pass")
    events.tell(place, "run.ended", model="toy", why="passed")
    monkeypatch.setenv("PREFECT_API_KEY", "pnu_1")
    events.tell(place, "run.ended", model="toy", why="passed")
    assert [path for path, _ in api.headers] == ["/api/events"] * 2
    assert [sent["Authorization"] for _, sent in api.headers] == ["Basic YWRtaW46cGFzcw==", "Bearer pnu_1"]


def test_without_a_prefect_events_are_kept(place: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    event = events.tell(place, "run.ended", model="toy", why="passed")
    assert events.since(place) == [event] and events.forward(place) == 0
