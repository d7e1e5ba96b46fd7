"""`POST /v1/preferences`: which of two samples of a model is the better one."""

import asyncio
from typing import Annotated, Literal

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from serving.errors import Refusal
from serving.generation import MOST_SAMPLES, WHOLE, parts_of
from serving.journal import Unknown, Unlike
from serving.openapi import ANSWER, ASKED, refusals, success


class Judged(BaseModel):
    """One sample of an earlier request."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    request_id: Annotated[str, Field(pattern="^req-[0-9a-f]{32}$")]
    index: Annotated[int, Field(ge=0, lt=MOST_SAMPLES), WHOLE] = 0


class Preference(BaseModel):
    """Of two samples of one model, the better one and the worse one; the newest about a pair counts."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True,
        json_schema_extra={
            "examples": [{"better": {"request_id": f"req-{'0' * 32}"}, "worse": {"request_id": f"req-{'1' * 32}"}}]
        },
    )  # fmt: skip

    better: Judged
    worse: Judged


class Preferred(BaseModel):
    """The preference as it was kept."""

    model_config = ANSWER

    object: Literal["preference"] = "preference"
    model: str
    better: Judged
    worse: Judged


def add(app: FastAPI) -> None:
    """Put the route into the application."""
    app.add_api_route(
        "/v1/preferences", preference, methods=["POST"], response_model=Preferred,
        responses=success("It was kept") | refusals(*ASKED),
    )  # fmt: skip


async def preference(request: Request, given: Preference) -> Response:
    """Keep which of two samples of a model someone found better."""
    parts, team = parts_of(request), request.state.caller.team
    better, worse = ((one.request_id, one.index) for one in (given.better, given.worse))
    try:
        model = await asyncio.to_thread(parts.journal.preference, better, worse, team=team)
    except Unknown:
        raise Refusal(
            "there are no such two samples to choose from: give the X-Request-Id of answers, and the index of a sample "
            "in each", status=404, param="better", code="request_not_found",
        ) from None  # fmt: skip
    except Unlike:
        say = "the better and the worse sample must be two, of one model: they are one, or of two models"
        raise Refusal(say, param="worse", code="not_comparable") from None
    except OSError as error:
        parts.metrics.failures.labels("journal").inc()
        raise Refusal(f"the preference could not be kept: {error}", status=503, retry_after=10) from None
    kept = Preferred(model=model, better=given.better, worse=given.worse)
    return Response(kept.model_dump_json(), media_type="application/json")
