"""How a refusal reads: OpenAI's error format, so that existing clients show the message."""

import json
import logging
import math
import secrets
from typing import Literal

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException

UNREADABLE = "There was an error parsing the body"  # FastAPI's words for whatever else goes wrong with it
LONGEST = 1000  # characters of a message, which may repeat what a caller wrote
Kind = Literal[
    "invalid_request_error", "authentication_error", "permission_error", "not_found_error", "rate_limit_error",
    "server_error",
]  # fmt: skip
KINDS: dict[int, Kind] = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


class Refusal(Exception):
    """A request that is not served, and why: one paragraph, the parameter at fault, and a code for programs."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message, self.status, self.param, self.code, self.retry_after = message, status, param, code, retry_after


class Gone(Exception):
    """The client went away before its answer was there: nobody is left to tell."""


class Fault(BaseModel):
    """What went wrong, in OpenAI's format."""

    message: str
    type: Kind
    param: str | None
    code: str | None


class Refused(BaseModel):
    """The body of every answer that is no success."""

    error: Fault


def request_id(request: Request) -> str:
    """The request's id, the same whenever it is asked for."""
    if not hasattr(request.state, "id"):
        request.state.id = new_id()
    named: str = request.state.id
    return named


def new_id() -> str:
    """An id for a request that has just come."""
    return f"req-{secrets.token_hex(16)}"


def refused(request: Request, refusal: Exception) -> Response:
    """The answer to a `Refusal`."""
    assert isinstance(refusal, Refusal)
    return _answer(request, refusal)


def malformed(request: Request, error: Exception) -> Response:
    """The answer to a body that does not fit the request's schema: the first mistake, its value and its place."""
    assert isinstance(error, RequestValidationError)
    mistake = error.errors()[0]
    sent = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if sent != "application/json" and mistake["loc"] == ("body",):
        given = f"it came as {_short(sent)}" if sent else "it came without a type"
        say = f"the body must be JSON, with the header Content-Type: application/json; {given}"
        return _answer(request, Refusal(say, status=415, code="unsupported_media_type"))
    if mistake["type"] == "json_invalid":
        return _answer(request, Refusal(f"the body is not JSON: {mistake['ctx']['error']}", code="invalid_json"))
    place = ".".join(filter(_names, map(str, mistake["loc"][1:]))) or None
    if mistake["type"] in ("missing", "extra_forbidden"):
        what = "is missing" if mistake["type"] == "missing" else "is no parameter of this route"
        return _answer(request, Refusal(f"{place or 'the body'} {what}", param=place))
    return _answer(
        request, Refusal(f"{place or 'the body'} is {_short(mistake['input'])}: {mistake['msg']}", param=place)
    )


def stopped(request: Request, error: Exception) -> Response:
    """The answer where the framework itself ends a request: no such route, wrong method, too large a body."""
    assert isinstance(error, HTTPException)
    if error.status_code == 400 and error.detail == UNREADABLE:
        say = (
            "the body cannot be read as JSON: it is nested too deeply, is no UTF-8, or holds a number that is too long"
        )
        return _answer(request, Refusal(say, code="invalid_json"))
    where = f": {request.method} {request.url.path}" if error.status_code in (404, 405) else ""
    told = _answer(request, Refusal(f"{error.detail}{where}", status=error.status_code))
    told.headers.update(error.headers or {})  # such as Allow
    return told


def broken(request: Request, error: Exception) -> Response:
    """The answer to a fault of ours; the log has its traceback."""
    logging.getLogger("atelier.serving").error("request %s failed", request_id(request), exc_info=error)
    return _answer(request, Refusal(f"the server failed; its log tells why under {request_id(request)}", status=500))


def answer(refusal: Refusal, named: str) -> Response:
    """A refusal as it is sent. Its JSON is ASCII, whatever a caller wrote that it repeats."""
    kind = KINDS.get(refusal.status, "server_error" if refusal.status >= 500 else "invalid_request_error")
    told = refusal.message
    told = told if len(told) <= LONGEST else f"{told[: LONGEST - 3]}..."
    error = {"message": told, "type": kind, "param": refusal.param, "code": refusal.code}
    headers = {"X-Request-Id": named}
    if refusal.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if refusal.retry_after is not None:
        headers["Retry-After"] = str(max(1, math.ceil(refusal.retry_after)))
    return Response(json.dumps({"error": error}), refusal.status, headers, media_type="application/json")


def _answer(request: Request, refusal: Refusal) -> Response:
    return answer(refusal, request_id(request))


def _names(part: str) -> bool:
    """Whether a part of a place is a caller's, and not one of the kinds that a value may be."""
    return part.isidentifier() or part.isdigit()


def _short(value: object) -> str:
    given = repr(value)
    return given if len(given) <= 80 else given[:77] + "..."
