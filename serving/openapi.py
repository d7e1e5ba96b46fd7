"""What /v1/openapi.json says: the routes tell their schemas, and this file what is common to all of them.

It is tested for being true: schemathesis asks what it allows and what it forbids, and compares each answer with it.
"""

from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from pydantic import ConfigDict

from serving.errors import Refused

Responses = dict[int | str, dict[str, Any]]

ASKED = (400, 401, 403, 404, 408, 413, 415, 500, 503)  # of a route that takes a body
MADE = (*ASKED, 409, 422, 429)  # and of one that makes samples
READ = (401, 403, 500)  # of a route that takes none
MEDIA = ("image/png", "audio/wav", "text/plain")  # of one sample, by the modality of its model
MEANING = {
    400: "The request does not fit its schema, or what the model allows",
    401: "No API key, or none that counts",
    403: "The API key is not for this model; or there are no keys, and the request came from another site",
    404: "No such model, version or request",
    408: "The body did not arrive in time",
    409: "Another request with this Idempotency-Key was broken off; ask again",
    413: "The body is too large",
    415: "The body is no JSON by its Content-Type",
    422: "The Idempotency-Key was used for another request",
    429: "More is asked for than can be made now; ask again after Retry-After",
    500: "A fault of the server; its log tells why under the request's id",
    503: "Not now: a model is being loaded, waits for others to be, cannot be loaded, or the server stops",
}
SEEDS = "^[0-9]+(,[0-9]+)*$"


def header(told: str, *, required: bool = True, **schema: Any) -> dict[str, Any]:
    """A header of an answer, as OpenAPI describes one."""
    return {"description": told, "required": required, "schema": {"type": "string"} | schema}


NAMED = {"X-Request-Id": header("names this request to `atelier trace` and in feedback", pattern="^req-[0-9a-f]{32}$")}
ORIGIN = {
    "X-Model": header("the model that answered"),
    "X-Model-Version": header("its version"),
    "X-Model-Digest": header("the digest of its bundle", pattern="^sha256:[0-9a-f]{64}$"),
    "X-Seed": header("the seeds of the samples, with commas between", pattern=SEEDS),
    "Idempotent-Replayed": header("the answer was made before, under this Idempotency-Key", required=False),
}
MANIFEST = {"X-Manifest": header("the signed manifest in base64, where the sample carries none", required=False)}
LATER = {"Retry-After": header("seconds to wait before asking again", required=False, type="integer", minimum=1)}
ONCE: dict[str, Any] = {
    "parameters": [
        {
            "name": "Idempotency-Key",
            "in": "header",
            "description": "A retry with the same key and body costs nothing and gets the same answer, within 24 hours "
            "and until the server restarts; while many are kept, the oldest are let go earlier.",
            "schema": {"type": "string", "minLength": 1, "maxLength": 255},
        }
    ]
}
BEARER = {"type": "http", "scheme": "bearer", "description": "An API key, as `atelier keys make TEAM` prints it."}


ANSWER = ConfigDict(json_schema_serialization_defaults_required=True)  # an answer says all of it, defaults too


def success(told: str, *, headers: dict[str, Any] | None = None, media: tuple[str, ...] = ()) -> Responses:
    """The answer of a route that went well: JSON by the route's model, or one of `media`."""
    content = {kind: {"schema": {"type": "string", "format": "binary"}} for kind in media}
    return {200: {"description": told, "headers": headers or {}} | ({"content": content} if content else {})}


def refusals(*statuses: int) -> Responses:
    """The answers of a route that are none of its success, all in OpenAI's error format."""
    told: Responses = {status: {"model": Refused, "description": MEANING[status]} for status in sorted(statuses)}
    for status in {429, 503} & set(statuses):
        told[status]["headers"] = dict(LATER)
    if 401 in told:
        told[401]["headers"] = {"WWW-Authenticate": header("how to show an API key", enum=["Bearer"])}
    return told


class Application(FastAPI):
    """An application whose description holds for the server that gives it: it asks for a key where the server does."""

    def openapi(self) -> dict[str, Any]:
        document = super().openapi()
        for unused in ("HTTPValidationError", "ValidationError"):
            document["components"]["schemas"].pop(unused, None)
        document["components"]["securitySchemes"] = {"Bearer": BEARER}
        document["security"] = [{"Bearer": []}] if self.state.parts.keys.required else []
        for path in document["paths"].values():
            for operation in path.values():
                if operation["responses"].get("422", {}).get("description") == "Validation Error":
                    del operation["responses"]["422"]  # FastAPI's own, which `errors.malformed` replaces by 400
                for answer in operation["responses"].values():
                    answer["headers"] = NAMED | answer.get("headers", {})
        return document


def named(route: APIRoute) -> str:
    """An operation's id: the name of its function."""
    return route.name
