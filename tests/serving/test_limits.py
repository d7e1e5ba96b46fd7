"""What a request may weigh and how long its body may take, spoken to in ASGI."""

import asyncio

import pytest
from starlette.exceptions import HTTPException

from serving.limits import BodyLimit


def ask(pieces, *, most=10, seconds=5.0, path="/", type="http"):
    """The body that an application reads through the limit; a piece is bytes, or a pause in seconds."""
    coming = list(pieces)

    async def receive():
        while coming and isinstance(coming[0], float):
            await asyncio.sleep(coming.pop(0))
        piece = coming.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool([p for p in coming if p != b"gone"])}

    async def application(scope, receive, send):
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message["body"], message["more_body"]
        read.append(body)
        after.append(receive)

    async def run():
        limit = BodyLimit(application, most=most, larger={"/large": 20}, seconds=seconds)
        await limit({"type": type, "path": path}, receive, None)

    read, after = [], []
    asyncio.run(run())
    return read[0]


def test_a_body_up_to_the_limit_comes_whole_in_any_pieces():
    assert ask([b"1234567890"]) == ask([b"1", b"", b"234567", b"890"]) == b"1234567890"


@pytest.mark.parametrize("pieces", [[b"12345678901"], [b"1234567890", b"1"], [b"1"] * 11])
def test_one_byte_more_ends_it(pieces):
    with pytest.raises(HTTPException, match="larger than 10 bytes") as ended:
        ask(pieces)
    assert ended.value.status_code == 413


def test_a_path_may_take_more_and_its_neighbours_may_not():
    assert ask([b"x" * 20], path="/large") == b"x" * 20
    for path in ("/large/", "/LARGE", "//large"):
        with pytest.raises(HTTPException):
            ask([b"x" * 20], path=path)


def test_a_body_that_dribbles_ends_when_its_time_is_up_however_often_a_byte_comes():
    with pytest.raises(HTTPException, match=r"within 0\.05 s") as ended:
        ask([b"1", 0.02] * 5, seconds=0.05)
    assert ended.value.status_code == 408


def test_whatever_is_no_request_passes():
    assert ask([b"x" * 30], type="websocket") == b"x" * 30
