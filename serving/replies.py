"""Answers kept for retries: a request that comes again under its `Idempotency-Key` costs nothing and says the same."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from starlette.responses import Response

from serving.errors import Refusal

MOST_BYTES = 64 * 2**20
LONGEST_KEY = 255


@dataclass(slots=True)
class _Kept:
    asked: bytes  # the digest of the request
    answer: "asyncio.Future[Response]"
    size: int = 0


class Replies:
    """Successful answers by team and key, the least lately used of them let go beyond `most` bytes."""

    def __init__(self, *, most: int = MOST_BYTES) -> None:
        self._most, self._size = most, 0
        self._kept: OrderedDict[tuple[str, str], _Kept] = OrderedDict()

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
        name = (team, key)
        kept = self._kept.get(name)
        if kept is None:
            return await self._first(name, asked, make)
        if kept.asked != asked:
            raise Refusal(
                f"the Idempotency-Key {key[:40]!r} was used for another request; give each request a key of its own",
                status=422, code="idempotency_key_reused",
            )  # fmt: skip
        self._kept.move_to_end(name)
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
        kept.size = len(answer.body)
        self._size += kept.size
        while self._size > self._most:
            old = next((named for named, entry in self._kept.items() if entry.answer.done()), None)
            if old is None:
                break
            self._size -= self._kept.pop(old).size
        return answer
