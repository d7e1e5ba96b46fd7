"""The routes: `POST /v1/generate` and `GET /v1/models`.

A sample comes back as bytes or in JSON. `format` decides: the model's own format ("png" for pictures) asks for the
bytes of one sample, "json" for all of them in base64. Left out, the `Accept` header decides the same way
(`image/png`, `application/json`); with neither, one sample comes as bytes and several as JSON.
"""

import asyncio
import base64
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from components.errors import AtelierError
from serving import errors
from serving.errors import Refusal
from serving.limits import BodyLimit
from serving.release import Served
from serving.worker import Busy, Worker

if TYPE_CHECKING:  # torch comes with it, and the process that only starts the server needs none
    from components.sampling import Endpoint

BODY_BYTES = 65536  # a request holds numbers and names only
LAST_SEED = 2**53 - 1  # JSON's numbers are exact up to here in every language

Seed = Annotated[int, Field(ge=0, le=LAST_SEED)]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model that answers: what the release says of it, and its endpoint; `since` in unix seconds."""

    served: Served
    endpoint: "Endpoint"
    since: int


class Generate(BaseModel):
    """A request for samples; the same seed, version and controls give the same bytes.

    One sample has `seed`, and the following ones of `n` the seeds after it; `seeds` names each. Without either, the
    server draws them and tells which.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    model: str
    seed: Seed | None = None
    seeds: Annotated[list[Seed], Field(min_length=1)] | None = None
    n: Annotated[int, Field(ge=1)] | None = None
    controls: dict[str, Any] = {}  # checked by the model that they are for
    format: str | None = None


def application() -> FastAPI:
    """The routes as an ASGI app; the service puts `models: Mapping[str, Loaded]` and `worker` into its `state`."""
    app = FastAPI(title="Atelier", docs_url=None, redoc_url=None, openapi_url="/v1/openapi.json")
    app.add_middleware(BodyLimit, most=BODY_BYTES)
    app.add_exception_handler(Refusal, errors.refused)
    app.add_exception_handler(RequestValidationError, errors.malformed)
    app.add_exception_handler(HTTPException, errors.stopped)
    app.add_exception_handler(Exception, errors.broken)
    app.add_api_route("/v1/models", list_models, methods=["GET"])
    app.add_api_route("/v1/generate", generate, methods=["POST"])
    app.add_api_route("/v1/{rest:path}", no_route, methods=["GET", "POST"], include_in_schema=False)
    return app


async def list_models(request: Request) -> dict[str, Any]:
    """The models of the release in OpenAI's format, with their controls, limits and trace."""
    models: Mapping[str, Loaded] = request.app.state.models
    return {"object": "list", "data": [_card(name, loaded) for name, loaded in models.items()]}


async def generate(request: Request, asked: Generate) -> Response:
    """Samples of one model: the bytes of one, or JSON with `data`, one entry per seed in order."""
    loaded = _model(request.app.state.models, asked.model)
    seeds = _seeds(asked, most=loaded.endpoint.card.max_samples)
    as_json = _as_json(asked.format, request.headers.get("accept", ""), loaded.endpoint.media_type, len(seeds))
    controls = _controls(loaded, asked.controls)
    samples = await _run(request.app.state.worker, loaded, seeds, controls)
    named = errors.request_id(request)
    headers = {
        "X-Request-Id": named,
        "X-Model": asked.model,
        "X-Model-Version": loaded.served.version,
        "X-Model-Digest": loaded.served.digest,
        "X-Seed": ",".join(map(str, seeds)),
    }
    if not as_json:
        return Response(samples[0], headers=headers, media_type=loaded.endpoint.media_type)
    media_type = loaded.endpoint.media_type
    body = {
        "id": named,
        "model": asked.model,
        "version": loaded.served.version,
        "digest": loaded.served.digest,
        "created": int(time.time()),
        "data": [
            {"seed": seed, "b64_json": base64.b64encode(sample).decode(), "media_type": media_type}
            for seed, sample in zip(seeds, samples, strict=True)
        ],
    }
    return JSONResponse(body, headers=headers)


async def no_route(request: Request, rest: str) -> Response:
    """Whatever else is asked for under /v1."""
    raise HTTPException(404, "there is no such route")


async def _run(worker: Worker, loaded: Loaded, seeds: list[int], controls: dict[str, Any]) -> list[bytes]:
    try:
        future = worker.submit(lambda: loaded.endpoint.generate(seeds, [controls] * len(seeds)))
    except Busy:
        raise Refusal("the queue is full; ask again in a second", status=429, code="queue_full") from None
    return await asyncio.wrap_future(future)


def _model(models: Mapping[str, Loaded], name: str) -> Loaded:
    if name not in models:
        known = ", ".join(sorted(models))
        raise Refusal(f"there is no model {name!r}; known: {known}", status=404, param="model", code="model_not_found")
    return models[name]


def _seeds(asked: Generate, *, most: int) -> list[int]:
    """One seed per sample."""
    if asked.seed is not None and asked.seeds is not None:
        raise Refusal("seed and seeds are both given; send one of them", param="seeds")
    count = asked.n or len(asked.seeds or [0])
    if asked.seeds is not None and count != len(asked.seeds):
        raise Refusal(f"n is {count} but seeds has {len(asked.seeds)}; leave n out, or make them agree", param="n")
    if count > most:
        place = "n" if asked.n else "seeds"
        raise Refusal(f"{count} samples are asked for; {asked.model} makes between 1 and {most} at once", param=place)
    if asked.seeds is not None:
        return asked.seeds
    if asked.seed is None:
        return [secrets.randbelow(2**32) for _ in range(count)]
    if asked.seed + count - 1 > LAST_SEED:
        raise Refusal(f"seed {asked.seed} and the {count - 1} after it pass {LAST_SEED}, the last seed", param="seed")
    return list(range(asked.seed, asked.seed + count))


def _as_json(asked: str | None, accept: str, media_type: str, count: int) -> bool:
    """Whether the answer is JSON, by `format`, else by `Accept`, else by the number of samples."""
    own = media_type.partition("/")[2]
    if asked not in (None, "json", own):
        raise Refusal(f"format is {asked!r}; this model answers in {own!r} or 'json'", param="format")
    if asked is None:
        accepted = {part.partition(";")[0].strip() for part in accept.split(",")}
        asked = "json" if "application/json" in accepted else own if media_type in accepted else None
    if asked == own and count > 1:
        raise Refusal(f"{count} samples do not fit in one {own}; ask for format 'json', or for one", param="format")
    return asked == "json" or (asked is None and count > 1)


def _controls(loaded: Loaded, asked: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return loaded.endpoint.checked(asked)
    except AtelierError as error:
        raise Refusal(str(error), param="controls") from None


def _card(name: str, loaded: Loaded) -> dict[str, Any]:
    endpoint, served = loaded.endpoint, loaded.served
    return {
        "id": name,
        "object": "model",
        "created": loaded.since,
        "owned_by": "atelier",
        "version": served.version,
        "digest": served.digest,
        "family": endpoint.family,
        "modality": endpoint.modality,
        "media_type": endpoint.media_type,
        "parameters": endpoint.parameters,
        "max_samples": endpoint.card.max_samples,
        "controls": endpoint.controls.model_json_schema()["properties"] if endpoint.card.controls else {},
        "trace": served.trace,
    }
