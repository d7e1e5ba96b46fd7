"""The routes in OpenAI's format, so that its clients work unchanged; `controls` and `seed` go into their `extra_body`.

Routes of kinds that no promoted model has are there, and say so.
"""

import base64
import json
import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from starlette.datastructures import FormData, UploadFile

from serving import generation
from serving.completions import Completion, CompletionRequest, complete, stream
from serving.errors import Refusal
from serving.generation import LAST_SEED, MOST_SAMPLES, WHOLE
from serving.openapi import ANSWER, MADE, ONCE, ORIGIN, refusals, success
from serving.residents import Resident

LARGER = {"/v1/images/edits": 16 * 2**20}  # bytes of a body that holds a picture
MOST_FILES, MOST_FIELDS = 64, 32  # of a form: files under `image[]`, and one under `image`
FIELD_BYTES = 64 * 2**10
FILES = ("image", "image[]")  # the second is how OpenAI's clients name several
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


def _from_json(given: object) -> object:
    if not isinstance(given, str):
        return given
    try:
        return json.loads(given)
    except (ValueError, RecursionError):
        raise ValueError("Input should be JSON, as in {}") from None


class EditRequest(BaseModel):
    """OpenAI's form for changing pictures, in the part that a model without a prompt can honour, less the files.

    `seed` and `controls`, an object as JSON text, are ours.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: Annotated[str, Field(min_length=1)]
    prompt: Annotated[str, Field(max_length=32000)] = ""
    n: Annotated[int, Field(ge=1, le=MOST_SAMPLES)] | None = None
    size: str | None = None
    response_format: Literal["b64_json"] | None = None
    output_format: Literal["png"] | None = None
    quality: Literal["auto", "standard"] | None = None
    background: Literal["auto"] | None = None
    stream: Literal["false"] | None = None
    user: str | None = None
    seed: Annotated[int, Field(ge=0, le=LAST_SEED)] | None = None
    controls: Annotated[dict[str, Any], BeforeValidator(_from_json)] = {}


def _form() -> dict[str, Any]:
    """The body of an edit as OpenAPI describes one: the request's fields, and the files."""
    schema = EditRequest.model_json_schema()
    file = {"type": "string", "format": "binary", "description": "PNG, JPEG or WebP, of at most 16 megapixels"}
    files = {"image": file, "image[]": {"type": "array", "items": file, "minItems": 1, "maxItems": MOST_FILES}}
    text = {"type": "string", "contentMediaType": "application/json", "description": "an object as JSON text"}
    given = {name: _not_null(rule) for name, rule in schema["properties"].items()}
    schema["properties"] = given | files | {"controls": text}
    schema["anyOf"] = [{"required": ["image"]}, {"required": ["image[]"]}]
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


def _not_null(rule: dict[str, Any]) -> dict[str, Any]:
    """A field's rule without null and without a default, which a form leaves out instead."""
    (kind,) = [one for one in rule.get("anyOf", [rule]) if one.get("type") != "null"]
    return {name: told for name, told in (rule | kind).items() if name not in ("anyOf", "default")}


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


class SpeechRequest(BaseModel):
    """OpenAI's request for speech, in the part that these models can honour; what they cannot is refused.

    `input` is what the control `text` of a model takes, and stays empty for one without it; `voice` is `default`, or
    what its control `label` takes. `seed` and `controls` are ours. The answer is WAV, whatever a client asks for by
    leaving `response_format` out.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True,
        json_schema_extra={"examples": [{"model": "prompts", "input": "", "voice": "default", "seed": 7}]},
    )  # fmt: skip

    model: str
    input: Annotated[str, Field(max_length=4096)]
    voice: Annotated[str, Field(max_length=256)] | None = None
    response_format: Literal["wav"] | None = None
    speed: Annotated[float, Field(ge=1, le=1)] | None = None
    instructions: Literal[""] | None = None
    stream_format: Literal["audio"] | None = None
    seed: Annotated[int, Field(ge=0, le=LAST_SEED), WHOLE] | None = None
    controls: dict[str, Any] = {}


def add(app: FastAPI) -> None:
    """Put these routes into the application."""
    app.add_api_route(
        "/v1/images/generations", images, methods=["POST"], response_model=Images, openapi_extra=ONCE,
        responses=success("Pictures as PNG in base64", headers=ORIGIN) | refusals(*MADE),
    )  # fmt: skip
    app.add_api_route(
        "/v1/images/edits", edits, methods=["POST"], response_model=Images, openapi_extra=ONCE | _form(),
        responses=success("Pictures as PNG in base64", headers=ORIGIN) | refusals(*MADE),
    )  # fmt: skip
    app.add_api_route(
        "/v1/completions", completions, methods=["POST"], response_model=Completion, openapi_extra=ONCE,
        responses=success("Texts as JSON, or as server-sent events while they are written", headers=ORIGIN)
        | refusals(*MADE),
    )  # fmt: skip
    app.add_api_route(
        "/v1/audio/speech", speech, methods=["POST"], response_class=Response, openapi_extra=ONCE,
        responses=success("A sound as WAV", headers=ORIGIN, media=("audio/wav",)) | refusals(*MADE),
    )  # fmt: skip


async def images(request: Request, asked: ImageRequest) -> Response:
    """Pictures of one model, as PNG in base64."""

    async def make() -> Response:
        resident = await _of_kind(request, asked.model, "image")
        return await _pictures(request, resident, asked, [])

    return await generation.once(request, make)


async def edits(request: Request) -> Response:
    """Pictures made from one that is given, or from several: `n` of each, in order, as PNG in base64."""
    await request.body()  # kept, so that it can be read again as a form, and for an Idempotency-Key

    async def make() -> Response:
        async with request.form(max_files=MOST_FILES + 1, max_fields=MOST_FIELDS, max_part_size=FIELD_BYTES) as form:
            fields = _fields(form)
            resident = await _of_kind(request, _named(request, fields), "image")
            if not resident.endpoint.edits:
                raise _not_yet(resident)
            asked = _edit_request(fields)
            return await _pictures(request, resident, asked, await _files(form))

    return await generation.once(request, make)


async def _pictures(
    request: Request, resident: Resident, asked: ImageRequest | EditRequest, files: Sequence[bytes]
) -> Response:
    size = _size(resident)
    if asked.size not in (None, "auto", size):
        raise Refusal(f"size is {asked.size!r}; {asked.model} makes pictures of {size} only", param="size")
    each = asked.n or 1
    seeds = generation.seeds_of(resident, seed=asked.seed, seeds=None, n=each * max(1, len(files)))
    controls = generation.controls_of(resident, asked.controls)
    given = [one for one in await generation.read(resident, files) for _ in range(each)]
    made = await generation.generate(request, resident, seeds, controls, given)
    rows = [
        {"b64_json": base64.b64encode(sample).decode(), "revised_prompt": "", "seed": seed}
        for seed, sample in zip(made.seeds, made.samples, strict=True)
    ]
    body = {
        "created": int(time.time()), "data": rows, "output_format": "png", "size": size, "id": made.id,
        "model": resident.model, "version": resident.version, "digest": resident.served.digest,
    }  # fmt: skip
    return Response(json.dumps(body), headers=made.headers(), media_type="application/json")


def _fields(form: FormData) -> dict[str, Any]:
    """What a form holds beside its files; a `Refusal` where something stands twice, or a file is none."""
    fields: dict[str, Any] = {}
    for name, value in form.multi_items():
        if (name in FILES) != isinstance(value, UploadFile):
            what = "a file, with a file name" if name in FILES else "text, and no file"
            raise Refusal(f"{_short(name)} is to be {what}", param=name)
        if name in FILES:
            continue
        if name.startswith("controls["):
            raise Refusal('controls is to be one object as JSON text, as in {"strength": 0.5}', param="controls")
        if name in fields:
            raise Refusal(f"{_short(name)} stands twice", param=name)
        fields[name] = value
    return fields


def _named(request: Request, fields: Mapping[str, Any]) -> str:
    if fields.get("model"):
        return str(fields["model"])
    sent = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if not fields and sent != "multipart/form-data":
        say = "the body must be a form with files, with the header Content-Type: multipart/form-data"
        raise Refusal(say, status=415, code="unsupported_media_type")
    raise Refusal("model is missing", param="model")


def _edit_request(fields: Mapping[str, Any]) -> EditRequest:
    try:
        return EditRequest.model_validate(fields)
    except ValidationError as error:
        raise RequestValidationError(
            [{**mistake, "loc": ("body", *mistake["loc"])} for mistake in error.errors()]
        ) from None


async def _files(form: FormData) -> list[bytes]:
    named = [value for name, value in form.multi_items() if name in FILES]
    return [await file.read() for file in named if isinstance(file, UploadFile)]


async def completions(request: Request, asked: CompletionRequest) -> Response:
    """Texts that go on from a prompt, or from nothing: whole, or with `stream` as they are written."""

    async def make() -> Response:
        resident = await _of_kind(request, asked.model, "text")
        if not asked.stream:
            return await complete(request, resident, asked)
        if "idempotency-key" in request.headers:
            raise Refusal(
                "a stream cannot be kept for a retry; leave the Idempotency-Key or stream out", param="stream"
            )
        return stream(request, resident, asked)

    return await make() if asked.stream else await generation.once(request, make)


async def speech(request: Request, asked: SpeechRequest) -> Response:
    """A sound of one model, as WAV."""

    async def make() -> Response:
        resident = await _of_kind(request, asked.model, "audio")
        controls = asked.controls
        if asked.input:
            if "text" not in resident.endpoint.card.controls:
                raise Refusal(f"{resident.model} speaks no text that it is given; leave input empty", param="input")
            controls = {**controls, "text": asked.input}
        if asked.voice not in (None, "default"):
            if "label" not in resident.endpoint.card.controls:
                raise Refusal(f"{resident.model} has one voice, default, and not {asked.voice!r}", param="voice")
            controls = {**controls, "label": asked.voice}
        seeds = generation.seeds_of(resident, seed=asked.seed, seeds=None, n=1)
        made = await generation.generate(request, resident, seeds, generation.controls_of(resident, controls))
        return Response(made.samples[0], headers=made.headers(), media_type=resident.endpoint.media_type)

    return await generation.once(request, make)


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


def _short(name: str) -> str:
    return name if len(name) <= 60 else name[:57] + "..."


def _size(resident: Resident) -> str:
    side = resident.endpoint.spec.size
    return f"{side}x{side}"
