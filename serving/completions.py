"""/v1/completions in OpenAI's format: text, whole or streamed as it is written.

What a recipe offers as the controls `prompt`, `max_tokens`, `temperature` and `top_p` goes by OpenAI's names for them;
others, and `seed`, go into `extra_body`. Every text comes with its manifest, which is signed where the server signs.
"""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import Request, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import StreamingResponse

from components import provenance
from serving import errors, generation, moderation
from serving.batching import Busy
from serving.errors import Gone, Refusal
from serving.generation import LAST_SEED, MOST_SAMPLES, WHOLE, parts_of
from serving.observations import Seen
from serving.openapi import ANSWER
from serving.residents import Resident
from serving.streams import Ended, Stream

if TYPE_CHECKING:  # torch comes with it
    from components.sampling import Ending

LOG = logging.getLogger("atelier.serving")
NAMED = ("max_tokens", "temperature", "top_p")  # fields of a request that are controls, where the model offers them

Prompt = Annotated[str, Field(max_length=60_000)]
Stop = Annotated[str, Field(min_length=1, max_length=256)]
Told = tuple[int, str, "Ending | Exception | None"]


class StreamOptions(BaseModel):
    """What a stream tells beside its text."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    include_usage: bool = False


class CompletionRequest(BaseModel):
    """OpenAI's request for text, in the part that these models can honour; what they cannot is refused.

    `seed` and `controls` are ours beyond it. A text ends before a `stop` string; of several texts the first has `seed`,
    and the following ones the seeds after it.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True,
        json_schema_extra={"examples": [{"model": "shakespeare", "prompt": "ROMEO", "max_tokens": 64, "seed": 7}]},
    )  # fmt: skip

    model: str
    prompt: Prompt | Annotated[list[Prompt], Field(min_length=1, max_length=64)] = ""
    max_tokens: Annotated[int, WHOLE] | None = None
    temperature: float | None = None
    top_p: float | None = None
    n: Annotated[int, Field(ge=1, le=MOST_SAMPLES), WHOLE] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    echo: Literal[False] | None = None
    logprobs: None = None
    suffix: None = None
    best_of: Literal[1] | None = None
    frequency_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    presence_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    user: str | None = None
    seed: Annotated[int, Field(ge=0, le=LAST_SEED), WHOLE] | None = None
    controls: dict[str, Any] = {}

    @property
    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    @property
    def prompts(self) -> list[str]:
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt


class Choice(BaseModel):
    """One text, why it ended, and where it comes from."""

    index: int
    text: str
    finish_reason: Literal["stop", "length", "content_filter"]
    logprobs: None = None
    seed: int
    manifest: dict[str, Any]


class Usage(BaseModel):
    """Tokens of the model's own tokenizer."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Completion(BaseModel):
    """OpenAI's answer, and where the texts come from; `created` in unix seconds."""

    model_config = ANSWER

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage
    version: str
    digest: str


class Texts:
    """The texts of one request in writing: what it asked for, and a queue of what the models' thread tells."""

    def __init__(self, request: Request, resident: Resident, asked: CompletionRequest) -> None:
        self.request, self.resident, self.asked = request, resident, asked
        self.parts, self.each = parts_of(request), asked.n or 1
        count = self.each * len(asked.prompts)
        self.seeds = generation.seeds_of(resident, seed=asked.seed, seeds=None, n=count)
        by_prompt = [_controls(resident, asked, prompt) for prompt in asked.prompts]
        for controls in by_prompt:
            moderation.check_asked(request, resident, controls)
        self.watched = moderation.watch(request, resident)
        heeded = self.watched if self.watched.blocks else None
        self.controls = [by_prompt[index // self.each] for index in range(count)]
        self.texts = [""] * count
        self._told: asyncio.Queue[Told] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def teller(index: int) -> Any:
            def tell(piece: str, ending: "Ending | Exception | None") -> None:
                loop.call_soon_threadsafe(self._told.put_nowait, (index, piece, ending))

            return tell

        name = (resident.model, resident.version)
        self.streams = [
            Stream(name, resident.endpoint, seed, controls, teller(index), asked.stops, heeded)
            for index, (seed, controls) in enumerate(zip(self.seeds, self.controls, strict=True))
        ]

    def begin(self) -> None:
        """Queue them all, or none: a `Refusal` where the models have too much to do."""
        patience = self.resident.endpoint.card.latency_ms / 1000
        try:
            for stream in self.streams:
                self.parts.batcher.stream(stream, patience=patience)
        except Busy as busy:
            self.leave()
            raise Refusal(
                f"{self.resident.model} is asked for more than it can write now; ask again later",
                status=429, code="queue_full", retry_after=busy.seconds,
            ) from None  # fmt: skip
        controls = dict(self.controls[0]) | ({"stop": json.dumps(self.asked.stops)} if self.asked.stops else {})
        self.request.state.note.update(
            model=self.resident.model, version=self.resident.version, digest=self.resident.served.digest,
            seeds=tuple(self.seeds), controls=controls, chosen=generation.chosen(self.resident),
        )  # fmt: skip
        self.request.state.seen = Seen(self.resident.endpoint)

    def leave(self) -> None:
        """Nobody waits for them any more."""
        for stream in self.streams:
            stream.cancelled = True

    async def pieces(self) -> AsyncIterator[Told]:
        """Each piece as it comes, with how its text ended; an exception where the model failed."""
        left = len(self.streams)
        while left:
            index, piece, ending = await self._told.get()
            if isinstance(ending, Exception):
                raise ending
            if not any(self.texts):
                asked, begun = self.streams[index].asked, self.streams[index].begun
                self.request.state.note.update(queued=begun - asked, first=time.monotonic() - asked)
            self.texts[index] += piece
            if ending is not None:
                left -= 1
                self._note(index)
            yield index, piece, ending

    def _note(self, index: int) -> None:
        """Note what a whole text holds, and what it was cut off before."""
        if index == self.seeds[0] % len(self.seeds):
            self.request.state.seen.sample = self.texts[index].encode()
        moderation.tell(self.request, self.watched, "answer", self.texts[index])
        if kind := self.streams[index].blocked:
            moderation.note(self.request, "answer", kind, "block")

    def manifest(self, index: int) -> dict[str, Any]:
        """Where a whole text comes from."""
        served = self.resident.served
        trace: dict[str, Any] = {
            "model": self.resident.model, "version": self.resident.version, "digest": served.digest,
            "seed": self.seeds[index], "controls": self.controls[index], **served.trace,
            **({"stop": self.asked.stops} if self.asked.stops else {}),
        }  # fmt: skip
        return provenance.attach(self.texts[index].encode(), trace, modality="text", signer=self.parts.signer)[1]

    def usage(self) -> Usage:
        encode = self.resident.endpoint.spec.tokenizer.encode
        read = sum(len(encode(prompt)) for prompt in self.asked.prompts)
        written = sum(stream.tokens for stream in self.streams)
        return Usage(prompt_tokens=read, completion_tokens=written, total_tokens=read + written)

    def about(self) -> dict[str, Any]:
        """What every answer, and every part of a streamed one, tells."""
        return {
            "id": errors.request_id(self.request), "object": "text_completion", "created": int(time.time()),
            "model": self.resident.model, "version": self.resident.version, "digest": self.resident.served.digest,
        }  # fmt: skip

    def headers(self) -> dict[str, str]:
        return generation.Samples(errors.request_id(self.request), self.resident, self.seeds, ()).headers()


async def complete(request: Request, resident: Resident, asked: CompletionRequest) -> Response:
    """The texts, once all are written."""
    texts = Texts(request, resident, asked)
    texts.begin()
    endings: dict[int, Ending] = {}

    async def gather() -> None:
        async for index, _, ending in texts.pieces():
            if ending is not None and not isinstance(ending, Exception):
                endings[index] = ending

    await _unless_gone(request, gather(), texts)
    choices = [
        Choice(index=index, text=text, finish_reason=endings[index], seed=seed, manifest=texts.manifest(index))
        for index, (text, seed) in enumerate(zip(texts.texts, texts.seeds, strict=True))
    ]
    body = Completion(**texts.about(), choices=choices, usage=texts.usage())
    return Response(body.model_dump_json(), headers=texts.headers(), media_type="application/json")


def stream(request: Request, resident: Resident, asked: CompletionRequest) -> Response:
    """The texts as server-sent events while they are written; the last of each has its manifest."""
    texts = Texts(request, resident, asked)
    texts.begin()
    return StreamingResponse(
        _events(texts), headers=texts.headers() | {"Cache-Control": "no-store"}, media_type="text/event-stream"
    )


async def _events(texts: Texts) -> AsyncIterator[str]:
    """Every piece as an event, an error as one too, and [DONE] whatever happens; who hangs up frees the slots."""
    about = texts.about()
    wants = texts.asked.stream_options is not None and texts.asked.stream_options.include_usage
    try:
        async for index, piece, ending in texts.pieces():
            if not piece and ending is None:
                continue
            choice = {"index": index, "text": piece, "finish_reason": ending, "logprobs": None}
            if ending is not None:
                choice |= {"seed": texts.seeds[index], "manifest": texts.manifest(index)}
            yield _event({**about, "choices": [choice]})
        if wants:
            yield _event({**about, "choices": [], "usage": texts.usage().model_dump()})
    except Exception as error:  # noqa: BLE001 - the answer has begun: whatever it is goes into it
        yield _event({"error": _told(error, texts)})
    finally:
        texts.leave()
    yield "data: [DONE]\n\n"


def _told(error: Exception, texts: Texts) -> dict[str, Any]:
    """A fault in the middle of a stream, in OpenAI's format."""
    named = errors.request_id(texts.request)
    if isinstance(error, Ended):
        return {"message": str(error), "type": "server_error", "param": None, "code": "stopping"}
    LOG.error("the stream of %s failed", named, exc_info=error)
    message = f"the server failed while it wrote; its log tells why under {named}"
    return {"message": message, "type": "server_error", "param": None, "code": "failed"}


def _event(value: Mapping[str, Any]) -> str:
    return f"data: {json.dumps(value)}\n\n"


async def _unless_gone(request: Request, work: Any, texts: Texts) -> None:
    """Do the work, but not for a caller that hung up: `Gone`. One with an `Idempotency-Key` will come again for it."""
    done, left = asyncio.ensure_future(work), asyncio.ensure_future(request.receive())
    watched = {done} if "idempotency-key" in request.headers else {done, left}
    try:
        await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
    finally:
        left.cancel()
        if not done.done():
            done.cancel()
            texts.leave()
            request.state.note.clear()
    if not done.done() or done.cancelled():
        raise Gone
    try:
        done.result()
    except Ended as ended:
        texts.leave()
        raise Refusal(str(ended), status=503, code="stopping", retry_after=1) from None
    except Exception:
        texts.leave()
        raise


def _controls(resident: Resident, asked: CompletionRequest, prompt: str) -> dict[str, Any]:
    """The controls of the texts of one prompt, complete and in range."""
    offered = resident.endpoint.card.controls
    fields = {name: value for name in NAMED if (value := getattr(asked, name)) is not None}
    given: dict[str, Any] = fields | ({"prompt": prompt} if prompt else {})
    for name in given:
        if name in asked.controls:
            raise Refusal(f"{name} is given twice, once among the controls; send it once", param=name)
        if name not in offered:
            raise Refusal(f"{resident.model} does not offer {name}; leave it out", param=name)
    return generation.controls_of(resident, {**asked.controls, **given})
