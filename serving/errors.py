"""How a refusal reads: OpenAI's error format, so that existing clients show the message."""

import logging
import uuid

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException


class Refusal(Exception):
    """A request that is not served, and why: one paragraph, the parameter at fault, and a code for programs."""

    def __init__(self, message: str, *, status: int = 400, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message, self.status, self.param, self.code = message, status, param, code


def request_id(request: Request) -> str:
    """The request's id, the same whenever it is asked for."""
    if not hasattr(request.state, "id"):
        request.state.id = f"req-{uuid.uuid4().hex}"
    named: str = request.state.id
    return named


def refused(request: Request, refusal: Exception) -> JSONResponse:
    """The answer to a `Refusal`."""
    assert isinstance(refusal, Refusal)
    return _answer(request, refusal)


def malformed(request: Request, error: Exception) -> JSONResponse:
    """The answer to a body that does not fit the request's schema: the first mistake, its value and its place."""
    assert isinstance(error, RequestValidationError)
    mistake = error.errors()[0]
    if mistake["type"] == "json_invalid":
        return _answer(request, Refusal(f"the body is not JSON: {mistake['ctx']['error']}", code="invalid_json"))
    place = ".".join(map(str, mistake["loc"][1:])) or None
    if mistake["type"] in ("missing", "extra_forbidden"):
        what = "is missing" if mistake["type"] == "missing" else "is no parameter of this route"
        return _answer(request, Refusal(f"{place or 'the body'} {what}", param=place))
    given = repr(mistake["input"])
    given = given if len(given) <= 80 else given[:77] + "..."
    return _answer(request, Refusal(f"{place or 'the body'} is {given}: {mistake['msg']}", param=place))


def stopped(request: Request, error: Exception) -> JSONResponse:
    """The answer where the framework itself ends a request: no such route, wrong method, too large a body."""
    assert isinstance(error, HTTPException)
    where = f": {request.method} {request.url.path}" if error.status_code in (404, 405) else ""
    return _answer(request, Refusal(f"{error.detail}{where}", status=error.status_code))


def broken(request: Request, error: Exception) -> JSONResponse:
    """The answer to a fault of ours; the log has its traceback."""
    logging.getLogger("bentoml").error("request %s failed", request_id(request), exc_info=error)
    return _answer(request, Refusal(f"the server failed; its log tells why under {request_id(request)}", status=500))


def _answer(request: Request, refusal: Refusal) -> JSONResponse:
    kind = {429: "rate_limit_error", 500: "server_error"}.get(refusal.status, "invalid_request_error")
    error = {"message": refusal.message, "type": kind, "param": refusal.param, "code": refusal.code}
    headers = {"X-Request-Id": request_id(request)} | ({"Retry-After": "1"} if refusal.status == 429 else {})
    return JSONResponse({"error": error}, refusal.status, headers)
