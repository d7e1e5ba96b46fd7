"""Notices reach a real server through Apprise: once each, again after a failure, and never with a secret shown."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from components import recipe as recipes
from components.errors import AtelierError
from components.notices import masked
from flows import events, known, notices
from flows.workspace import Workspace

ROOT = Path(__file__).resolve().parents[2]
SECRET = "s3cret-token"


class Server(ThreadingHTTPServer):
    """What a team reads: it keeps what it is told, unless it is to refuse."""

    code = 200
    told: list[dict[str, Any]]
    paths: list[str]

    @property
    def url(self) -> str:
        return f"json://127.0.0.1:{self.server_port}/{SECRET}"


class Takes(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.server.code == 200:
            self.server.told.append(body)
            self.server.paths.append(self.path)
        self.send_response(self.server.code)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """A test prints enough."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Takes) as held:
        held.told, held.paths = [], []
        threading.Thread(target=held.serve_forever, args=(0.02,), daemon=True).start()
        yield held
        held.shutdown()


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    place = Workspace(tmp_path, tmp_path / "workspace")
    place.root.mkdir()
    return place


def ask(place: Workspace, *urls: str, **more: Any) -> None:
    folder = place.project / known.FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "toy.yaml").write_text(json.dumps({"model": "toy", "notify": {"urls": urls, **more}}))


def deliver(place: Workspace) -> list[str]:
    """Deliver what is due now, and return the lines of the log."""
    said: list[str] = []
    notices.deliver(place, say=said.append)
    return said


def due_now(place: Workspace) -> None:
    with notices._open(place) as base:
        base.execute("UPDATE messages SET due = 0")
    base.close()


def test_each_topic_is_one_clear_message_and_a_line_of_the_log(place: Workspace, server: Server) -> None:
    ask(place, server.url)
    page = place.reports / "toy" / "report.html"
    page.parent.mkdir(parents=True)
    page.touch()
    for kind, facts in (
        ("run.ended", {"exit_code": 0, "cause": "schedule"}), ("run.failed", {"exit_code": 4}),
        ("run.failed", {"exit_code": 1}), ("run.failed", {"exit_code": 130}), ("champion.moved", {"version": "7"}),
        ("alias.reverted", {}), ("drift.found", {}), ("service.drifted", {}), ("feedback.low", {}),
        ("data.changed", {}),
    ):  # fmt: skip
        events.tell(place, kind, model="toy", why="the reason", facts=facts)
    said = deliver(place)
    assert sorted(one["title"] for one in server.told) == sorted([
        "toy: a run passed its gates", "toy: no candidate passed its gates", "toy: a run failed",
        "toy: version 7 is champion", "toy: an alias was put back", "toy: drift", "toy: the service drifted",
        "toy: feedback is low",
    ])  # fmt: skip
    assert server.told[0]["message"] == f"the reason\nIt ran for: schedule\nReport: {page}"
    assert len(said) == 8 and all("toy: " in line and "the reason" in line for line in said)
    assert deliver(place) == [] and len(server.told) == 8
    assert notices.standing(place) == {"delivered": 8, "waiting": 0, "given_up": 0, "troubles": {}}


def test_only_what_is_asked_for_is_told_and_everything_is_a_line_of_the_log(place: Workspace, server: Server) -> None:
    ask(place, server.url, on=["promotion"])
    events.tell(place, "run.ended", model="toy", why="passed")
    events.tell(place, "champion.moved", model="other", why="nobody asked", facts={"version": "1"})
    events.tell(place, "champion.moved", model="toy", why="auto", facts={"version": "1"})
    assert len(deliver(place)) == 3
    assert [one["title"] for one in server.told] == ["toy: version 1 is champion"]


def test_a_refused_message_is_shown_and_tried_again_with_growing_pauses(place: Workspace, server: Server) -> None:
    ask(place, server.url)
    server.code = 500
    events.tell(place, "run.ended", model="toy", why="passed")
    deliver(place)
    deliver(place)  # not due yet
    ((topic, trouble),) = notices.standing(place)["troubles"].items()
    assert topic == "toy to json://***" and "tried once, again in 10 s" in trouble
    due_now(place)
    deliver(place)
    assert "tried 2 times, again in 20 s" in str(notices.standing(place)["troubles"])
    server.code = 200
    due_now(place)
    deliver(place)
    assert [one["title"] for one in server.told] == ["toy: a run passed its gates"]
    assert notices.standing(place)["troubles"] == {}


def test_a_message_is_given_up_after_days(place: Workspace, server: Server) -> None:
    ask(place, server.url)
    server.code = 500
    events.tell(place, "run.ended", model="toy", why="passed")
    deliver(place)
    with notices._open(place) as base:
        base.execute("UPDATE messages SET due = 0, created = created - ?", (notices.STALE_SECONDS + 1,))
    base.close()
    deliver(place)
    assert notices.standing(place) == {"delivered": 0, "waiting": 0, "given_up": 1, "troubles": {}}


def test_who_is_new_is_not_told_all_of_the_past(place: Workspace, server: Server) -> None:
    ask(place, server.url)
    for hours in (5, 0.5):
        when = (datetime.now(UTC) - timedelta(hours=hours)).isoformat(timespec="microseconds")
        events.append(place, [events.Event(str(hours), when, "run.ended", "toy", f"{hours} hours ago")])
    deliver(place)
    assert [one["message"].splitlines()[0] for one in server.told] == ["0.5 hours ago"]


def test_secrets_come_from_the_environment_and_are_neither_kept_nor_shown(
    place: Workspace, server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ask(place, f"json://127.0.0.1:{server.server_port}/${{TEAM_TOKEN}}", f"json://127.0.0.1:1/{SECRET}")
    events.tell(place, "run.ended", model="toy", why="passed")
    said = deliver(place)
    assert "TEAM_TOKEN is not set" in str(notices.standing(place)["troubles"])
    monkeypatch.setenv("TEAM_TOKEN", SECRET)
    due_now(place)
    said += deliver(place)
    assert server.paths == [f"/{SECRET}"]
    shown = [*said, json.dumps(notices.standing(place)), caplog.text]
    kept = [path for path in place.root.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
    assert SECRET not in "".join(shown) and kept == []


def test_one_that_no_longer_wants_to_be_told_is_not(place: Workspace, server: Server) -> None:
    ask(place, server.url)
    server.code = 500
    events.tell(place, "run.ended", model="toy", why="passed")
    deliver(place)
    (place.project / known.FOLDER / "toy.yaml").write_text("model: toy\n")
    server.code = 200
    for _ in range(notices.LOOKS):
        due_now(place)
        deliver(place)
    assert server.told == [] and notices.standing(place)["given_up"] == 1


def test_two_workers_send_nothing_twice(place: Workspace, server: Server) -> None:
    ask(place, server.url)
    for number in range(20):
        events.append(place, [events.Event(str(number), events._now(), "run.ended", "toy", str(number))])
    threads = [threading.Thread(target=deliver, args=(place,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(server.told) == 20


def test_a_worker_that_is_killed_sends_all_and_one_message_twice_at_most(place: Workspace, server: Server) -> None:
    ask(place, server.url)
    for number in range(40):
        events.append(place, [events.Event(str(number), events._now(), "run.ended", "toy", str(number))])
    code = (
        "from pathlib import Path; from flows import notices; from flows.workspace import Workspace; import sys\n"
        "notices.deliver(Workspace(Path(sys.argv[1]), Path(sys.argv[2])))"
    )
    worker = subprocess.Popen(
        [sys.executable, "-c", code, str(place.project), str(place.root)], cwd=ROOT, stdout=subprocess.DEVNULL
    )
    until = time.monotonic() + 30
    while not server.told and time.monotonic() < until:
        time.sleep(0.001)
    worker.kill()
    worker.wait()
    at_kill = len(server.told)
    assert 0 < at_kill < 40
    deliver(place)
    numbers = [int(one["message"].splitlines()[0]) for one in server.told]
    assert set(numbers) == set(range(40)) and len(numbers) <= 41


@pytest.mark.parametrize("url", ["no-url-token", "://token", "slack:/token", ""])
def test_a_url_that_is_none_is_refused_without_being_shown(url: str) -> None:
    path = ROOT / "flows/recipes/fashion-tiny.yaml"
    with pytest.raises(AtelierError, match=r"notify\.urls\.0: it is no URL of Apprise") as told:
        recipes.load(path, [f"notify={json.dumps({'urls': [url]})}"])
    assert not url or url not in str(told.value)


def test_a_mistake_beside_a_url_does_not_show_it_and_it_is_never_written_down() -> None:
    path = ROOT / "flows/recipes/fashion-tiny.yaml"
    asked = {"urls": [f"slack://{SECRET}"], "on": ["nonsense"]}
    with pytest.raises(AtelierError, match=r"notify\.on\.0") as told:
        recipes.load(path, [f"notify={json.dumps(asked)}"])
    assert SECRET not in str(told.value)
    recipe = recipes.load(path, [f"notify={json.dumps({'urls': [f'slack://{SECRET}']})}"])
    assert recipe.notify is not None and SECRET not in recipe.model_dump_json() + repr(recipe)
    assert recipe.model_dump_json() == recipes.load(path).model_dump_json()


def test_a_recipe_that_asks_wrongly_is_told_without_its_urls(place: Workspace) -> None:
    ask(place, SECRET, on=["nonsense"])
    deliver(place)
    told = str(notices.standing(place)["troubles"])
    assert "toy to notify" in told and "urls.0" in told and SECRET not in told
    ask(place, "json://127.0.0.1:1/")
    deliver(place)
    assert notices.standing(place)["troubles"] == {}


def test_of_a_url_its_service_alone_is_shown() -> None:
    urls = ("slack://a/b/c", "${TEAM_URL}", "mailto://me:word@host?to=x", "odd")
    assert [masked(url) for url in urls] == ["slack://***", "${TEAM_URL}", "mailto://***", "***"]


def test_nothing_is_sent_where_nobody_asks_and_apprise_is_not_imported(place: Workspace) -> None:
    events.tell(place, "run.ended", model="toy", why="passed")
    code = (
        "import sys; from pathlib import Path; from flows import notices; from flows.workspace import Workspace\n"
        f"notices.deliver(Workspace(Path({str(place.project)!r}), Path({str(place.root)!r})))\n"
        "print('apprise' in sys.modules, 'prefect' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "False False" and "toy: a run passed" in done.stdout
