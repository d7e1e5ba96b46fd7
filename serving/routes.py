"""The routes: our own here, OpenAI's in `openai.py`, all under one application.

A sample comes back as bytes or in JSON. `format` decides: the model's own format ("png" for pictures) asks for the
bytes of one sample, "json" for all of them in base64. Left out, the `Accept` header decides the same way
(`image/png`, `application/json`); with neither, one sample comes as bytes and several as JSON.
"""

import asyncio
import base64
import hashlib
import json
import time
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse
from starlette.routing import Match, Route

from serving import drift, errors, generation, openai, openapi, preferences, standing
from serving.door import Door
from serving.errors import Refusal
from serving.generation import LAST_SEED, MOST_SAMPLES, WHOLE, Samples, parts_of
from serving.journal import Unknown
from serving.limits import BodyLimit
from serving.openapi import ANSWER, ASKED, MADE, MANIFEST, MEDIA, ONCE, ORIGIN, READ, Application, refusals, success
from serving.residents import Resident, View

EVERY = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD", "TRACE"]
BODY_BYTES = 65536  # a request holds numbers and names, and a small picture at most
PAGE = Path(__file__).with_name("playground.html")

Seed = Annotated[int, Field(ge=0, le=LAST_SEED), WHOLE]
Base64 = Annotated[str, Field(max_length=BODY_BYTES - 4096, json_schema_extra={"contentEncoding": "base64"})]


class Generate(BaseModel):
    """A request for samples; the same seed, version and controls give the same bytes.

    One sample has `seed`, and the following ones of `n` the seeds after it; `seeds` names each. Without either, the
    server draws them and tells which. `model` is a name, `name@alias` or `name@version`. `image` is what a model that
    edits is to change: a PNG, JPEG or WebP in base64; a larger one goes to /v1/images/edits.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, json_schema_extra={"examples": [{"model": "fashion", "seed": 7}]}
    )

    model: str
    seed: Seed | None = None
    seeds: Annotated[list[Seed], Field(min_length=1, max_length=MOST_SAMPLES)] | None = None
    n: Annotated[int, Field(ge=1, le=MOST_SAMPLES), WHOLE] | None = None
    controls: dict[str, Any] = {}  # checked by the model that they are for
    image: Base64 | None = None
    format: str | None = None


class Sample(BaseModel):
    """One sample in base64, with the manifest of its origin where its format carries none inside."""

    seed: int
    b64_json: str
    media_type: str
    manifest: dict[str, Any] | None = None


class Generated(BaseModel):
    """Samples in the order of their seeds; `created` in unix seconds."""

    id: str
    model: str
    version: str
    digest: str
    created: int
    data: list[Sample]


class Card(BaseModel):
    """A model that may be asked for: its champion, its other versions, what it takes and where it comes from."""

    model_config = ANSWER

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["atelier"] = "atelier"
    version: str
    digest: str
    family: str
    modality: str
    media_type: str
    parameters: int
    max_samples: int
    edits: bool
    controls: dict[str, Any]
    trace: dict[str, str]
    aliases: dict[str, str]
    versions: list[str]
    trouble: str | None = None


class Cards(BaseModel):
    """The models of the release, in OpenAI's format."""

    model_config = ANSWER

    object: Literal["list"] = "list"
    data: list[Card]
    release: int


class Feedback(BaseModel):
    """What someone thinks of one sample of a request; the newest about a sample counts."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True,
        json_schema_extra={"examples": [{"request_id": f"req-{'0' * 32}", "thumb": "up"}]},
    )  # fmt: skip

    request_id: Annotated[str, Field(pattern="^req-[0-9a-f]{32}$")]
    index: Annotated[int, Field(ge=0, lt=MOST_SAMPLES), WHOLE] = 0
    thumb: Literal["up", "down"]
    comment: Annotated[str, Field(max_length=2000)] | None = None


class Kept(BaseModel):
    """The feedback as it was kept."""

    model_config = ANSWER

    object: Literal["feedback"] = "feedback"
    request_id: str
    index: int
    thumb: Literal["up", "down"]


class SigningKey(BaseModel):
    """The public half (Ed25519, PEM) of the key that signs samples."""

    key_id: str
    public_key: str


def application() -> FastAPI:
    """The routes as an ASGI app; the service puts `parts: Parts` into its `state`."""
    app = Application(
        title="Atelier", version="1", docs_url=None, redoc_url=None, openapi_url="/v1/openapi.json",
        description="Samples of gated generative models, each traceable to the data that made it. What a model takes "
        "beyond this description, its controls and limits, is in its card at /v1/models.",
        generate_unique_id_function=openapi.named,
    )  # fmt: skip
    app.add_middleware(BodyLimit, most=BODY_BYTES, larger=openai.LARGER)
    app.add_middleware(Door)
    for kind, answer in {
        Refusal: errors.refused,
        RequestValidationError: errors.malformed,
        HTTPException: errors.stopped,
        Exception: errors.broken,
    }.items():
        app.add_exception_handler(kind, answer)
    _add(app)
    openai.add(app)
    preferences.add(app)
    app.add_api_route("/{rest:path}", no_route, methods=EVERY, include_in_schema=False)
    return app


def _add(app: FastAPI) -> None:
    add = app.add_api_route
    told = "One sample in the model's own media type, or JSON"
    made = success(told, headers=ORIGIN | MANIFEST, media=MEDIA)
    made[200]["model"] = Generated
    add(
        "/v1/generate", generate, methods=["POST"], responses=made | refusals(*MADE), response_class=Response,
        openapi_extra=ONCE,
    )  # fmt: skip
    add(
        "/v1/models", list_models, methods=["GET"], response_model=Cards,
        responses=success("The models that the caller may ask") | refusals(*READ),
    )  # fmt: skip
    add(
        "/v1/models/{named}", one_model, methods=["GET"], response_model=Card,
        responses=success("One model, or one version of it") | refusals(*READ, 404, 503),
    )  # fmt: skip
    add(
        "/v1/feedback", feedback, methods=["POST"], response_model=Kept,
        responses=success("It was kept") | refusals(*ASKED),
    )  # fmt: skip
    add(
        "/v1/signing-key", signing_key, methods=["GET"], response_model=SigningKey, openapi_extra={"security": []},
        responses=success("The public key") | refusals(403, 404, 500),
    )  # fmt: skip
    add(
        "/metrics", metrics, methods=["GET"], response_class=PlainTextResponse,
        responses=success("Prometheus's text format") | refusals(*READ),
    )  # fmt: skip
    add("/", playground, methods=["GET"], include_in_schema=False)
    standing.add(app, _shown)


async def generate(request: Request, asked: Generate) -> Response:
    """Samples of one model: the bytes of one, or JSON with `data`, one entry per seed in order."""

    async def make() -> Response:
        resident = await generation.find(request, asked.model)
        seeds = generation.seeds_of(resident, seed=asked.seed, seeds=asked.seeds, n=asked.n)
        media_type = resident.endpoint.media_type
        as_json = _as_json(asked.format, request.headers.get("accept", ""), media_type, len(seeds))
        controls = generation.controls_of(resident, asked.controls)
        given = await generation.read(resident, [] if asked.image is None else [_decoded(asked.image)])
        made = await generation.generate(request, resident, seeds, controls, given * len(seeds))
        return _json(made) if as_json else _bytes(made)

    return await generation.once(request, make)


async def list_models(request: Request) -> Response:
    """The models of the release that the caller may ask, with their controls, limits and lineage."""
    view = parts_of(request).residents.view
    cards = [
        _card(view, champion) for name, champion in sorted(view.champions.items()) if request.state.caller.may(name)
    ]
    return _answer(Cards(data=cards, release=view.release.number))


async def one_model(request: Request, named: str) -> Response:
    """One model: its champion, or the version that `name@alias` or `name@version` asks for."""
    resident = await generation.find(request, named)
    return _answer(_card(parts_of(request).residents.view, resident, named=named))


async def feedback(request: Request, given: Feedback) -> Response:
    """Keep a thumb, and a comment, for one sample of an earlier request."""
    parts, team = parts_of(request), request.state.caller.team
    keep = parts.journal.feedback
    try:
        await asyncio.to_thread(keep, given.request_id, given.index, given.thumb, given.comment, team=team)
    except Unknown:
        raise Refusal(
            f"there is no sample {given.index} of {given.request_id} to judge: give the X-Request-Id of an answer, "
            "and the index of a sample in it", status=404, param="request_id", code="request_not_found",
        ) from None  # fmt: skip
    except OSError as error:
        parts.metrics.failures.labels("journal").inc()
        raise Refusal(f"the feedback could not be kept: {error}", status=503, retry_after=10) from None
    return _answer(Kept(request_id=given.request_id, index=given.index, thumb=given.thumb))


async def signing_key(request: Request) -> Response:
    """The public key with which a sample's signature can be checked."""
    signer = parts_of(request).signer
    if signer is None:
        raise Refusal(
            "this server signs nothing: it was started without a signing key", status=404, code="no_signing_key"
        )
    return _answer(SigningKey(key_id=signer.key_id, public_key=signer.public_pem))


async def metrics(request: Request) -> Response:
    """Everything that is counted, for Prometheus: of all models and teams, so not for a key of some models."""
    parts = parts_of(request)
    if "*" not in request.state.caller.models:
        raise Refusal("the figures tell of every model, and this API key is not for all", status=403)
    parts.metrics.waiting.set(parts.batcher.waiting)
    parts.metrics.drift.tell(await asyncio.to_thread(drift.read, parts.observations.folder))
    return Response(parts.metrics.text(), media_type=parts.metrics.media_type)


async def playground(request: Request) -> Response:
    """The page to try the models by hand."""
    return await _shown(PAGE)


async def _shown(path: Path) -> Response:
    """A page of ours, which nothing from elsewhere can enter."""
    page = await asyncio.to_thread(path.read_bytes)
    headers = {
        "Content-Security-Policy": _policy(page),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
    }
    return Response(page, headers=headers, media_type="text/html; charset=utf-8")


async def no_route(request: Request, rest: str) -> Response:
    """Whatever else is asked for: another method of a route is told which ones there are."""
    offered = {
        method
        for route in request.app.routes
        if isinstance(route, Route)
        and route.endpoint is not no_route
        and route.matches(request.scope)[0] == Match.PARTIAL
        for method in route.methods or ()
    }
    if offered:
        allowed = ", ".join(sorted(offered))
        raise HTTPException(405, f"the method is none of {allowed}", {"Allow": allowed})
    raise HTTPException(404, "there is no such route")


def _policy(page: bytes) -> str:
    """Nothing from elsewhere, no script and no style but the page's own, known by their hashes."""
    style, script = (
        base64.b64encode(hashlib.sha256(page.partition(opened)[2].partition(closed)[0]).digest()).decode()
        for opened, closed in ((b"<style>", b"</style>"), (b'<script type="module">', b"</script>"))
    )
    return (
        f"default-src 'none'; img-src data: blob:; media-src blob: data:; connect-src 'self'; "
        f"style-src 'sha256-{style}'; script-src 'sha256-{script}'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    )


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


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        raise Refusal("image is not base64", param="image", code="invalid_image") from None


def _bytes(made: Samples) -> Response:
    headers = made.headers()
    if 0 in made.manifests:
        headers["X-Manifest"] = base64.b64encode(json.dumps(made.manifests[0]).encode()).decode()
    return Response(made.samples[0], headers=headers, media_type=made.resident.endpoint.media_type)


def _json(made: Samples) -> Response:
    media_type = made.resident.endpoint.media_type
    rows = [
        {"seed": seed, "b64_json": base64.b64encode(sample).decode(), "media_type": media_type}
        | ({"manifest": made.manifests[index]} if index in made.manifests else {})
        for index, (seed, sample) in enumerate(zip(made.seeds, made.samples, strict=True))
    ]
    body = {
        "id": made.id,
        "model": made.resident.model,
        "version": made.resident.version,
        "digest": made.resident.served.digest,
        "created": int(time.time()),
        "data": rows,
    }
    return Response(json.dumps(body), headers=made.headers(), media_type="application/json")


def _answer(body: BaseModel) -> Response:
    return Response(body.model_dump_json(), media_type="application/json")


def _card(view: View, resident: Resident, *, named: str | None = None) -> Card:
    endpoint, model = resident.endpoint, view.release.models[resident.model]
    return Card(
        id=named or resident.model,
        created=resident.since,
        version=resident.version,
        digest=resident.served.digest,
        family=endpoint.family,
        modality=endpoint.modality,
        media_type=endpoint.media_type,
        parameters=endpoint.parameters,
        max_samples=endpoint.card.max_samples,
        edits=endpoint.edits,
        controls=endpoint.controls.model_json_schema()["properties"] if endpoint.card.controls else {},
        trace=dict(resident.served.trace),
        aliases=model.aliases,
        versions=list(model.versions),
        trouble=view.troubles.get(resident.model),
    )
