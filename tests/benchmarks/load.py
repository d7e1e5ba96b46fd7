"""The client of the serving benchmarks: one process, raw sockets, one epoll; it makes no object per request but a time.

`python -m tests.benchmarks.load` reads a plan as JSON and prints what it saw as JSON. It runs on a core of its own and
never sleeps while it measures, so that its waking up is no part of a latency.
"""

import json
import random
import re
import select
import socket
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.I)
VERSION = re.compile(rb"\r\nx-model-version: *([^\r]*)", re.I)
IDLE_SECONDS = 2.0  # a server may close a connection that rests for 5
GRACE_SECONDS = 60.0  # for answers that are still to come at the end


@dataclass(frozen=True)
class Plan:
    """`connections` that ask again as soon as they are answered, or, with `rate`, requests at Poisson's times.

    Latencies of an open loop count from the time a request was due, whether or not a connection was free then. What is
    due in the first `warm` seconds is not counted. With `versions` the answers' versions are told with their times.
    """

    port: int
    path: str
    model: str
    seconds: float
    warm: float = 0.3
    connections: int = 1
    rate: float | None = None
    seed: int = 0
    key: str = ""
    versions: bool = False


@dataclass
class Seen:
    """Milliseconds of each answer that counts, statuses (0 for a connection that broke), answers a second."""

    latencies: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    versions: list[tuple[float, str]] = field(default_factory=list)  # when an answer's version differed from the last
    counted: int = 0  # answers in the time that counts, whenever they were asked for


class Line:
    """One connection, and the request on it; `due` is when it should have been sent."""

    __slots__ = ("asked", "due", "got", "rested", "socket")

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.due = self.rested = 0.0
        self.asked, self.got = False, b""

    def read(self) -> bytes | None:
        """The whole answer once it is there; None before; empty where the connection ended without one."""
        try:
            piece = self.socket.recv(262144)
        except BlockingIOError:
            return None
        except OSError:
            return b""
        if not piece:
            return b""
        self.got += piece
        head = self.got.find(b"\r\n\r\n")
        if head < 0:
            return None
        length = LENGTH.search(self.got, 0, head + 2)
        if length is None or len(self.got) < head + 4 + int(length[1]):
            return None
        answer, self.got = self.got, b""
        return answer


class Client:
    def __init__(self, plan: Plan) -> None:
        self.plan, self.seen = plan, Seen()
        self._poll = select.epoll()
        self._lines: dict[int, Line] = {}
        self._number = 10**9  # of the seeds, all of ten digits
        body = json.dumps({"model": plan.model, "seed": self._number})
        self._head = (
            f"POST {plan.path} HTTP/1.1\r\nHost: 127.0.0.1:{plan.port}\r\nContent-Type: application/json\r\n"
            f"Authorization: Bearer {plan.key}\r\nContent-Length: {len(body)}\r\n\r\n"
        ).encode() + body.encode().removesuffix(b"1000000000}")
        self._start = 0.0
        self._last = ""

    def run(self) -> Seen:
        """All of the plan; a connection that breaks counts as a failed request and is replaced."""
        self._start = time.monotonic()
        (self._closed if self.plan.rate is None else self._open)()
        return self.seen

    def _closed(self) -> None:
        end = self._start + self.plan.warm + self.plan.seconds
        for _ in range(self.plan.connections):
            self._send(self._line(), time.monotonic())
        while time.monotonic() < end:
            for line in self._answered():
                self._send(line, time.monotonic())
        self._settle()

    def _open(self) -> None:
        idle: deque[Line] = deque()
        for due in self._arrivals():
            while time.monotonic() < due:
                idle.extend(self._answered())
            idle.extend(self._answered())
            while idle and time.monotonic() - idle[0].rested > IDLE_SECONDS:
                self._drop(idle.popleft())
            self._send(idle.pop() if idle else self._line(), due)
        self._settle()

    def _arrivals(self) -> Iterator[float]:
        assert self.plan.rate is not None
        draw, due = random.Random(self.plan.seed), self._start
        while (due := due + draw.expovariate(self.plan.rate)) < self._start + self.plan.warm + self.plan.seconds:
            yield due

    def _settle(self) -> None:
        until = time.monotonic() + GRACE_SECONDS
        while any(line.asked for line in self._lines.values()) and time.monotonic() < until:
            self._answered()
        self.seen.statuses[0] += sum(line.asked for line in self._lines.values())

    def _line(self) -> Line:
        line = Line(self.plan.port)
        self._lines[line.socket.fileno()] = line
        self._poll.register(line.socket, select.EPOLLIN)
        return line

    def _drop(self, line: Line) -> None:
        self._poll.unregister(line.socket)
        del self._lines[line.socket.fileno()]
        line.socket.close()

    def _send(self, line: Line, due: float) -> None:
        line.asked, line.due = True, due
        self._number += 1
        line.socket.send(self._head + b"%d}" % self._number)

    def _answered(self) -> list[Line]:
        """The connections that are free again."""
        free = []
        for number, _ in self._poll.poll(0):
            line = self._lines[number]
            answer = line.read()
            if answer is None:
                continue
            now = time.monotonic()
            if answer:
                self._note(line, answer, now)
            else:
                self._drop(line)
                self.seen.statuses[0] += line.asked
                if self.plan.rate is not None or not line.asked:
                    continue
                line = self._line()
            line.asked, line.rested = False, now
            free.append(line)
        return free

    def _note(self, line: Line, answer: bytes, now: float) -> None:
        begin = self._start + self.plan.warm
        status = int(answer[9:12])
        self.seen.statuses[status] += 1
        if status == 200 and line.due >= begin:
            self.seen.latencies.append((now - line.due) * 1e3)
        if status == 200 and begin <= now < begin + self.plan.seconds:
            self.seen.counted += 1
        if self.plan.versions and (found := VERSION.search(answer)) and (version := found[1].decode()) != self._last:
            self._last = version
            self.seen.versions.append((now, version))


def main(plan: Plan) -> dict[str, Any]:
    """What a run of the plan saw."""
    seen = Client(plan).run()
    return {
        "latencies": [round(value, 4) for value in seen.latencies],
        "statuses": {str(status): count for status, count in seen.statuses.items() if count},
        "versions": seen.versions,
        "rate": seen.counted / plan.seconds,
    }


if __name__ == "__main__":
    json.dump(main(Plan(**json.load(sys.stdin))), sys.stdout)
