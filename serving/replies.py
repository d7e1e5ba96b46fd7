"""Answers kept for retries: a request that comes again under its `Idempotency-Key` costs nothing and says the same.

They are kept in memory, for a day at most, and the oldest make room for others: a key that comes later than that, or
after a restart, is new.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from starlette.responses import Response

from serving.errors import Refusal

MOST_BYTES = 64 * 2**20
KEEP_SECONDS = 86400.0
BESIDE_BYTES = 1024  # of an answer beside its body, headers and key: our own objects, as Python keeps them
LONGEST_KEY = 255


@dataclass(slots=True)
class _Kept:
    asked: bytes  # the digest of the request
    answer: "asyncio.Future[Response]"
    since: float = field(default_factory=time.monotonic)
    size: int = 0


class Replies:
    """Successful answers by team and key, let go after `seconds`, and the oldest of them beyond `most` bytes."""

    def __init__(self, *, most: int = MOST_BYTES, seconds: float = KEEP_SECONDS) -> None:
        self._most, self._seconds, self._size = most, seconds, 0
        self._kept: OrderedDict[tuple[str, str], _Kept] = OrderedDict()  # the oldest first

    async def once(self, team: str, key: str | None, asked: bytes, make: Callable[[], Awaitable[Response]]) -> Response:
        """The answer that `make` gives, made once for a key, though the same request comes twice at once.

        A `Refusal` where the key was used for another request. An answer that is no success is not kept.
        """
        if key is None:
            return await make()
        if not 0 < len(key) <= LONGEST_KEY:
            raise Refusal(
                f"Idempotency-Key has {len(key)} characters; give 1 to {LONGEST_KEY}", code="invalid_idempotency_key"
            )
        self._let_go()
        name = (team, key)
        kept = self._kept.get(name)
        if kept is None:
            return await self._first(name, asked, make)
        if kept.asked != asked:
            raise Refusal(
                f"the Idempotency-Key {key[:40]!r} was used for another request; give each request a key of its own",
                status=422, code="idempotency_key_reused",
            )  # fmt: skip
        before = await asyncio.shield(kept.answer)
        again = Response(before.body, before.status_code)
        again.raw_headers = [*before.raw_headers, (b"idempotent-replayed", b"true")]
        return again

    async def _first(self, name: tuple[str, str], asked: bytes, make: Callable[[], Awaitable[Response]]) -> Response:
        kept = self._kept[name] = _Kept(asked, asyncio.get_running_loop().create_future())
        try:
            answer = await make()
        except BaseException as error:
            self._kept.pop(name, None)
            kept.answer.set_exception(error if isinstance(error, Exception) else Refusal("ask again", status=409))
            kept.answer.exception()  # whoever waits hears of it; where nobody does, asyncio need not complain
            raise
        kept.answer.set_result(answer)
        kept.size = BESIDE_BYTES + len(name[1]) + len(answer.body) + sum(len(n) + len(v) for n, v in answer.raw_headers)
        self._size += kept.size
        self._let_go()
        return answer

    def _let_go(self) -> None:
        """Drop what is too old, and the oldest while all is too large; what is being made stays."""
        stale = time.monotonic() - self._seconds
        gone = []
        for name, entry in self._kept.items():
            if self._size <= self._most and entry.since > stale:
                break
            if entry.answer.done():
                gone.append(name)
                self._size -= entry.size
        for name in gone:
            del self._kept[name]
