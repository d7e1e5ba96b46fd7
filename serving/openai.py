"""The routes in OpenAI's format, so that its clients work unchanged; `controls` and `seed` go into their `extra_body`.

Routes of kinds that no promoted model has are there, and say so.
"""

import base64
import json
import time
from collections.abc import Callable
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Form, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from serving import generation
from serving.errors import Refusal
from serving.generation import LAST_SEED, MOST_SAMPLES, WHOLE
from serving.openapi import ANSWER, ASKED, MADE, ONCE, ORIGIN, refusals, success
from serving.residents import Resident

LARGER = {"/v1/images/edits": 16 * 2**20}  # bytes of a body that holds a picture
FORM = {
    "requestBody": {
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"model": {"type": "string", "minLength": 1}},
                    "required": ["model"],
                }
            }
        }
    }
}
ROUTES = {
    "image": "/v1/images/generations",
    "text": "/v1/completions",
    "audio": "/v1/audio/speech",
}


class ImageRequest(BaseModel):
    """OpenAI's request for images, in the part that a model without a prompt can honour; what it cannot is refused.

    `seed` and `controls` are ours. A model that takes no prompt says so by an empty `revised_prompt`.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True,
        json_schema_extra={"examples": [{"model": "fashion", "prompt": "", "n": 2, "seed": 7}]},
    )  # fmt: skip

    model: str
    prompt: Annotated[str, Field(max_length=32000)]
    n: Annotated[int, Field(ge=1, le=MOST_SAMPLES), WHOLE] | None = None
    size: str | None = None
    response_format: Literal["b64_json"] | None = None
    output_format: Literal["png"] | None = None
    quality: Literal["auto", "standard"] | None = None
    background: Literal["auto"] | None = None
    moderation: Literal["auto"] | None = None
    stream: Literal[False] | None = None
    user: str | None = None
    seed: Annotated[int, Field(ge=0, le=LAST_SEED), WHOLE] | None = None
    controls: dict[str, Any] = {}


class Image(BaseModel):
    """One picture: PNG in base64."""

    b64_json: str
    revised_prompt: str
    seed: int


class Images(BaseModel):
    """OpenAI's answer, and where the pictures come from; `created` in unix seconds."""

    model_config = ANSWER

    created: int
    data: list[Image]
    output_format: Literal["png"] = "png"
    size: str
    id: str
    model: str
    version: str
    digest: str


class CompletionRequest(BaseModel):
    """OpenAI's request for text; nothing is read of it but the model while no model of text is promoted."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    model: str


class SpeechRequest(BaseModel):
    """OpenAI's request for speech; nothing is read of it but the model while no model of speech is promoted."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    model: str


def add(app: FastAPI) -> None:
    """Put these routes into the application."""
    app.add_api_route(
        "/v1/images/generations", images, methods=["POST"], response_model=Images, openapi_extra=ONCE,
        responses=success("Pictures as PNG in base64", headers=ORIGIN) | refusals(*MADE),
    )  # fmt: skip
    others: dict[str, Callable[..., Any]] = {
        "/v1/completions": completions,
        "/v1/audio/speech": speech,
        "/v1/images/edits": edits,
    }
    for path, route in others.items():
        app.add_api_route(
            path, route, methods=["POST"], response_class=Response, status_code=404, responses=refusals(*ASKED),
            openapi_extra=FORM if route is edits else None,
        )  # fmt: skip


async def images(request: Request, asked: ImageRequest) -> Response:
    """Pictures of one model, as PNG in base64."""

    async def make() -> Response:
        resident = await _of_kind(request, asked.model, "image")
        size = _size(resident)
        if asked.size not in (None, "auto", size):
            raise Refusal(f"size is {asked.size!r}; {asked.model} makes pictures of {size} only", param="size")
        seeds = generation.seeds_of(resident, seed=asked.seed, seeds=None, n=asked.n or 1)
        made = await generation.generate(request, resident, seeds, generation.controls_of(resident, asked.controls))
        rows = [
            {"b64_json": base64.b64encode(sample).decode(), "revised_prompt": "", "seed": seed}
            for seed, sample in zip(made.seeds, made.samples, strict=True)
        ]
        body = {
            "created": int(time.time()), "data": rows, "output_format": "png", "size": size, "id": made.id,
            "model": resident.model, "version": resident.version, "digest": resident.served.digest,
        }  # fmt: skip
        return Response(json.dumps(body), headers=made.headers(), media_type="application/json")

    return await generation.once(request, make)


async def completions(request: Request, asked: CompletionRequest) -> Response:
    """Text: for models of text, none of which is promoted yet."""
    raise _not_yet(await _of_kind(request, asked.model, "text"))


async def speech(request: Request, asked: SpeechRequest) -> Response:
    """Speech: for models of audio, none of which is promoted yet."""
    raise _not_yet(await _of_kind(request, asked.model, "audio"))


async def edits(request: Request, model: Annotated[str, Form(min_length=1)]) -> Response:
    """Image to image: for models that take a picture, none of which is promoted yet; nothing else is read till then."""
    raise _not_yet(await _of_kind(request, model, "image"))


async def _of_kind(request: Request, named: str, modality: str) -> Resident:
    resident = await generation.find(request, named)
    found = resident.endpoint.modality
    if found != modality:
        raise Refusal(
            f"{named} makes {found}, and this route is for {modality}; ask {ROUTES.get(found, '/v1/generate')}",
            param="model", code="wrong_modality",
        )  # fmt: skip
    return resident


def _not_yet(resident: Resident) -> Refusal:
    return Refusal(
        f"{resident.model} does not answer this route; ask /v1/generate, or see its card at /v1/models",
        param="model", code="unsupported_route",
    )  # fmt: skip


def _size(resident: Resident) -> str:
    side = resident.endpoint.spec.size
    return f"{side}x{side}"
