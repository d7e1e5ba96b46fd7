"""Answers kept for retries: how long, and how many."""

import anyio
import pytest
from starlette.responses import Response

from serving import replies as module
from serving.replies import Replies


class Shop:
    """What makes answers, a new one each time."""

    def __init__(self, size=10):
        self.size, self.made = size, 0

    async def __call__(self):
        self.made += 1
        return Response(b"%d" % self.made * self.size)


def replayed(answer):
    return answer.headers.get("idempotent-replayed") == "true"


def test_an_answer_is_kept_for_its_time_and_made_anew_after_it():
    async def run():
        replies, make = Replies(seconds=0.2), Shop()
        first = await replies.once("shop", "k", b"a", make)
        again = await replies.once("shop", "k", b"a", make)
        assert replayed(again) and again.body == first.body
        await anyio.sleep(0.25)
        later = await replies.once("shop", "k", b"b", make)
        assert not replayed(later) and make.made == 2, "and another request may have the key then"
        assert replayed(await replies.once("shop", "k", b"b", make))

    anyio.run(run)


def test_what_is_too_old_is_let_go_though_nobody_asks_for_it_again():
    async def run():
        replies, make = Replies(seconds=0.1), Shop()
        for number in range(5):
            await replies.once("shop", f"k{number}", b"a", make)
        await anyio.sleep(0.15)
        await replies.once("shop", "new", b"a", make)
        assert len(replies._kept) == 1 and replies._size < 2 * module.BESIDE_BYTES

    anyio.run(run)


@pytest.mark.parametrize("size", [0, 1000], ids=["empty answers", "answers"])
def test_the_oldest_make_room_and_an_answer_costs_more_than_its_body(size):
    async def run():
        replies, make = Replies(most=10 * (module.BESIDE_BYTES + size)), Shop(size)
        for number in range(50):
            await replies.once("shop", f"k{number}", b"a", make)
        assert 0 < len(replies._kept) <= 10 and 0 < replies._size <= replies._most
        assert replayed(await replies.once("shop", "k49", b"a", make))
        assert not replayed(await replies.once("shop", "k0", b"a", make))

    anyio.run(run)
