"""Tells people what happened to a model, where its recipe says: `notify`. The platform's worker calls `deliver`.

Events are read from their own record. What is due to whom is kept in `.atelier/notices.db`, so that each message is
delivered at least once, and a second time only where the worker was killed between sending and noting it. Every event
is a line of the worker's log as well.
"""

import hashlib
import hmac
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from components.notices import VARIABLE, Notify, Topic, masked
from flows import events, known, runs, webhook, workspace
from flows.alone import alone
from flows.events import Event
from flows.workspace import Workspace

LOG = "log"  # the one who is told everything
STALE_SECONDS = 3 * 86400.0  # a message so old is of no use
HEADSTART_SECONDS = 3600.0  # of what happened before somebody was first to be told of it
KEEP_SECONDS = 30 * 86400.0
FIRST_WAIT, LONGEST_WAIT = 10.0, 3600.0
PATIENCE_SECONDS = 20.0  # for all messages of one call
LOOKS = 3  # at a recipe that no longer names somebody, or cannot be read while it is edited
WORDS = 600
TABLES = """
CREATE TABLE IF NOT EXISTS people (id TEXT PRIMARY KEY, since TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS messages (event TEXT NOT NULL, person TEXT NOT NULL, model TEXT NOT NULL,
  shown TEXT NOT NULL, title TEXT NOT NULL, body TEXT NOT NULL, state TEXT NOT NULL, tries INTEGER NOT NULL,
  due REAL NOT NULL, trouble TEXT NOT NULL, created REAL NOT NULL, PRIMARY KEY (event, person));
CREATE INDEX IF NOT EXISTS messages_due ON messages (state, due);
"""
STOPPED = 130


def deliver(place: Workspace, *, say: Callable[[str], None] = lambda words: print(words, flush=True)) -> int:
    """Send what is due and return how many messages were taken; one process does so at a time.

    What is not taken is tried again after a while that doubles, up to an hour, and given up after three days.
    """
    with alone(place, "notices") as mine:
        if not mine:
            return 0
        wanted, troubles = _wanted(place)
        with closing(_open(place)) as base:
            _enqueue(place, base, wanted)
            base.execute("DELETE FROM messages WHERE created < ?", (time.time() - KEEP_SECONDS,))
            base.execute("DELETE FROM messages WHERE event = ''")
            for model, words in troubles.items():
                _put(base, ("", model, model, "notify", "", "", "wrong", 0, 0.0, words, time.time()))
            base.commit()
            return _send_due(base, {model: notify.urls for model, notify in wanted.items()}, place, say)


def standing(place: Workspace) -> dict[str, Any]:
    """How many messages were taken in 30 days, wait, and were given up; and what the trouble is with those."""
    if not _file(place).is_file():
        return {"delivered": 0, "waiting": 0, "given_up": 0, "troubles": {}}
    with closing(_open(place)) as base:
        counted = "SELECT state, count(*) FROM messages WHERE person != ? AND event != '' GROUP BY state"
        states = dict(base.execute(counted, (LOG,)))
        told = (
            "SELECT model, shown, trouble, tries, due FROM messages WHERE trouble != '' "
            "AND state IN ('waiting', 'wrong') ORDER BY created"
        )
        troubles = {
            f"{model} to {shown}": _tried(trouble, tries, due)
            for model, shown, trouble, tries, due in base.execute(told)
        }
    return {
        "delivered": states.get("taken", 0),
        "waiting": states.get("waiting", 0),
        "given_up": states.get("given up", 0),
        "troubles": troubles,
    }


def topic(event: Event) -> Topic | None:
    """What an event is about to people; None for what they need not be told."""
    code = event.facts.get("exit_code")
    match event.kind:
        case "run.ended":
            return "verdict"
        case "run.failed":
            return "verdict" if code == 4 else None if code == STOPPED else "failure"
        case "champion.moved":
            return "promotion"
        case "alias.reverted":
            return "revert"
        case "drift.found" | "service.drifted" | "feedback.low":
            return "drift"
        case _:
            return None


def message(event: Event, place: Workspace) -> tuple[str, str]:
    """One short title, and what there is to know with a link or a path for more."""
    failed = event.facts.get("exit_code") == 4
    about = {
        "run.ended": "a run passed its gates",
        "run.failed": "no candidate passed its gates" if failed else "a run failed",
        "champion.moved": f"version {event.facts.get('version', '?')} is champion",
        "alias.reverted": "an alias was put back",
        "drift.found": "drift",
        "service.drifted": "the service drifted",
        "feedback.low": "feedback is low",
    }[event.kind]
    why = event.why if len(event.why) <= WORDS else f"{event.why[: WORDS - 3]}..."
    cause = event.facts.get("cause")
    lines = [why, f"It ran for: {cause}" if cause else "", *_links(event, place)]
    return f"{event.model}: {about}", "\n".join(line for line in lines if line)


def _links(event: Event, place: Workspace) -> Iterator[str]:
    page = event.facts.get("report") or place.reports / event.model / "report.html"
    if str(page).startswith(("http://", "https://")) or Path(str(page)).is_file():
        yield f"Report: {page}"
    parts = (workspace.servers(place) or {}).get("parts", {})
    if url := (parts.get("endpoints") or {}).get("url"):
        yield f"Status: {url}/status"
    if url := (parts.get("mlflow") or {}).get("url"):
        yield f"Versions: {url}/#/models/{event.model}"


def _wanted(place: Workspace) -> tuple[dict[str, Notify], dict[str, str]]:
    """What each recipe asks for, as its file says now; and why that is none."""
    found, wrong = dict[str, Notify](), dict[str, str]()
    ran = {model: run.recipe for model, run in runs.last(place).items()}
    for model, recipe in known.recipes(place, ran).items():
        if (said := recipe.raw.get("notify")) is None:
            continue
        try:
            found[model] = Notify.model_validate(said)
        except ValidationError as error:
            mistakes = error.errors(include_input=False, include_url=False)
            wrong[model] = "; ".join(f"{'.'.join(map(str, m['loc']))}: {m['msg']}" for m in mistakes)
    return found, wrong


def _enqueue(place: Workspace, base: sqlite3.Connection, wanted: Mapping[str, Notify]) -> None:
    """Put a message down for everyone who is to be told of an event, once."""
    now = datetime.now(UTC)
    for event in events.since(place, now - timedelta(seconds=STALE_SECONDS), limit=10_000):
        about = topic(event)
        if about is None:
            continue
        notify = wanted.get(event.model)
        urls = notify.urls if notify is not None and about in notify.on else ()
        title, body = message(event, place)
        people = [(_person(place, event.model, url), _shown(url, urls)) for url in urls]
        for person, shown in [(LOG, LOG), *people]:
            if event.time >= _since(base, person, now):
                row = (event.id, person, event.model, shown, title, body, "waiting", 0, 0.0, "", time.time())
                _put(base, row)
    base.commit()


def _shown(url: str, urls: Sequence[str]) -> str:
    """A URL as it may be shown, told apart from the others of a recipe by its place."""
    return masked(url) if len(urls) == 1 else f"{masked(url)} ({urls.index(url) + 1})"


def _put(base: sqlite3.Connection, row: Sequence[Any]) -> None:
    base.execute(f"INSERT OR IGNORE INTO messages VALUES ({', '.join('?' * len(row))})", row)


def _since(base: sqlite3.Connection, person: str, now: datetime) -> str:
    """From when on somebody is told; whoever is new is not told all of the past."""
    first = (now - timedelta(seconds=HEADSTART_SECONDS)).isoformat(timespec="microseconds")
    base.execute("INSERT OR IGNORE INTO people VALUES (?, ?)", (person, first))
    return str(base.execute("SELECT since FROM people WHERE id = ?", (person,)).fetchone()[0])


def _send_due(
    base: sqlite3.Connection, urls: Mapping[str, Sequence[str]], place: Workspace, say: Callable[[str], None]
) -> int:
    taken, until = 0, time.monotonic() + PATIENCE_SECONDS
    reach = {_person(place, model, url): url for model, held in urls.items() for url in held}
    due = (
        "SELECT event, person, title, body, tries, created FROM messages "
        "WHERE state = 'waiting' AND due <= ? ORDER BY created"
    )
    for event, person, title, body, tries, created in base.execute(due, (time.time(),)).fetchall():
        if time.monotonic() > until:
            break
        if person == LOG:
            say(_line(title, body))
        trouble = None if person == LOG else _sent(reach.get(person), title, body)
        if trouble is None:
            state, wait = "taken", 0.0
        elif (person not in reach and tries >= LOOKS) or time.time() - created > STALE_SECONDS:
            state, wait = "given up", 0.0
        else:
            state, wait = "waiting", min(LONGEST_WAIT, FIRST_WAIT * 2**tries)
        base.execute(
            "UPDATE messages SET state = ?, tries = ?, due = ?, trouble = ? WHERE event = ? AND person = ?",
            (state, tries + 1, time.time() + wait, trouble or "", event, person),
        )
        base.commit()
        taken += state == "taken" and person != LOG
    return taken


def _line(title: str, body: str) -> str:
    return f"{datetime.now(UTC).isoformat(timespec='seconds')} {title}: {' '.join(body.split())}"


def _sent(url: str | None, title: str, body: str) -> str | None:
    """Send a message; why it was not taken, in words that hold nothing of the URL."""
    if url is None:
        return "the recipe no longer names it"
    missing = [name for name in VARIABLE.findall(url) if name not in os.environ]
    if missing:
        return f"{', '.join(missing)} is not set in the environment of the platform"
    from apprise import Apprise, AppriseAsset

    logging.getLogger("apprise").setLevel(logging.CRITICAL + 1)  # it would log the URL
    whole = VARIABLE.sub(lambda found: os.environ[found[1]], url)
    post = Apprise(asset=AppriseAsset(async_mode=False, secure_logging=True, app_id="Atelier", app_desc="Atelier"))
    if not post.add(whole):
        return "Apprise does not know such a URL, or it lacks a part"
    try:
        return None if post.notify(title=title, body=body) else "it was not taken"
    except Exception as error:  # noqa: BLE001 - of any service's plugin; its words may hold the URL
        return f"it was not taken ({type(error).__name__})"


def _tried(trouble: str, tries: int, due: float) -> str:
    if not tries:
        return trouble
    times = "once" if tries == 1 else f"{tries} times"
    left = max(0, round(due - time.time()))
    return f"{trouble}; tried {times}" + (f", again in {left} s" if left else "")


def _person(place: Workspace, model: str, url: str) -> str:
    """Who a URL reaches, without telling it."""
    key = webhook.secret(place, "notices.key").encode()
    return f"{model}:{hmac.new(key, f'{model} {url}'.encode(), hashlib.sha256).hexdigest()[:16]}"


def _file(place: Workspace) -> Path:
    return place.root / "notices.db"


def _open(place: Workspace) -> sqlite3.Connection:
    base = sqlite3.connect(_file(place), timeout=30)
    base.execute("PRAGMA journal_mode = WAL")
    base.executescript(TABLES)
    return base
