"""What callers may not ask and models may not answer: whose lists hold for a request, and what is told of it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import Request

from components.errors import AtelierError
from serving.errors import Refusal
from serving.keys import Caller
from serving.residents import Resident

if TYPE_CHECKING:  # torch comes with it
    from components.moderation import Watch

EVERY_TEAM = "*"
KINDS = {"profanity": "a profane word", "personal_data": "personal data", "words": "a word that is blocked here"}
Lists = Mapping[str, frozenset[str]]


def lists(path: Path | None) -> Lists:
    """The words that teams have blocked, from a JSON file, those of all under "*"; an `AtelierError` names a fault."""
    if path is None:
        return {}
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        found = {team: frozenset(map(_word, words)) for team, words in told.items()}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise AtelierError(
            f"the block lists in {path} cannot be read: {' '.join(str(error).split())}. Write JSON that names words by "
            'team, as in {"web": ["one", "two words"], "*": ["for all"]}.'
        ) from None
    return found


def _word(given: object) -> str:
    if not isinstance(given, str) or not given.strip():
        raise ValueError(f"{given!r} is no word")
    return given


def watch(request: Request, resident: Resident) -> "Watch":
    """The policy of a model, with the words that whoever asks, or everybody, has blocked."""
    from components.moderation import Watch

    caller: Caller = request.state.caller
    known: Lists = request.app.state.parts.blocked
    words = known.get(EVERY_TEAM, frozenset()) | known.get(caller.team, frozenset())
    return Watch(resident.endpoint.card.moderation, words)


def check_asked(request: Request, resident: Resident, controls: Mapping[str, Any]) -> None:
    """Count what free text among the controls holds; a `Refusal` where some of it is blocked."""
    watched, offered = watch(request, resident), resident.endpoint.card.controls
    request.state.note.update(model=resident.model, version=resident.version)
    for name, value in controls.items():
        if isinstance(value, str) and (name not in offered or offered[name].choices is None):
            tell(request, watched, "request", value)
            if (blocked := watched.blocked(value)) is not None:
                raise Refusal(
                    f"{name} holds {KINDS[blocked.kind]}, which {resident.model} does not take; ask without it",
                    param=name, code="content_policy_violation",
                )  # fmt: skip


def check_answer(request: Request, resident: Resident, texts: Sequence[str]) -> None:
    """Count what whole answers hold; a `Refusal` where one of them holds what is blocked."""
    watched = watch(request, resident)
    for text in texts:
        tell(request, watched, "answer", text)
    for index, text in enumerate(texts):
        if (blocked := watched.blocked(text)) is not None:
            raise Refusal(
                f"sample {index} of {resident.model} holds {KINDS[blocked.kind]}, and is held back; ask with another "
                "seed or prompt",
                code="content_filter",
            )  # fmt: skip


def check_given(request: Request, resident: Resident, shown: Sequence[Sequence[str]]) -> None:
    """Count what pictures show from which samples are to be made; a `Refusal` where one of them is blocked."""
    if (blocked := _count(request, resident, "request", shown)) is not None:
        raise Refusal(
            f"the picture shows {blocked[1]}, which {resident.model} does not take; ask with another one",
            param="image", code="content_policy_violation",
        )  # fmt: skip


def check_made(request: Request, resident: Resident, shown: Sequence[Sequence[str]]) -> None:
    """Count what the pictures of an answer show; a `Refusal` where one of them is blocked."""
    if (blocked := _count(request, resident, "answer", shown)) is not None:
        index, kind = blocked
        raise Refusal(
            f"sample {index} of {resident.model} shows {kind}, and is held back; ask with another seed",
            code="content_filter",
        )  # fmt: skip


def _count(request: Request, resident: Resident, where: str, shown: Sequence[Sequence[str]]) -> tuple[int, str] | None:
    """Note each kind that each picture shows; the first picture that is blocked, and its kind."""
    policy = resident.endpoint.card.moderation.images
    found = [(index, kind) for index, kinds in enumerate(shown) for kind in kinds]
    if not found or policy is None:
        return None
    request.state.note.update(model=resident.model, version=resident.version)
    for _, kind in found:
        note(request, where, kind, policy.action)
    return found[0] if policy.action == "block" else None


def tell(request: Request, watched: "Watch", where: str, text: str) -> None:
    """Note each kind that a text holds, and what is done about it: the log and /metrics show it."""
    for kind in dict.fromkeys(one.kind for one in watched.found(text)):
        note(request, where, kind, watched.action(kind))


def note(request: Request, where: str, kind: str, action: str) -> None:
    """Say what was done about what, in the request or the answer."""
    request.state.note["moderated"] = (*request.state.note.get("moderated", ()), (where, kind, action))
