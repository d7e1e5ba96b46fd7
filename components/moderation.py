"""What a model may not be asked, and may not answer: the policy of its recipe and the lists of those who call it.

The same checks judge what a model generates before it is registered, and each request and answer when it is served.
What is counted is told, and what is blocked is refused or cut off with the reason: nothing is dropped in silence.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from components.modalities.text import content
from components.modalities.text.content import Found
from components.records import Strict

Action = Literal["off", "count", "block"]
Word = Annotated[str, Field(min_length=1, max_length=200, pattern=r"\S")]
Shown = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")]


class Pictures(Strict):
    """What pictures may not show, as a network of the team's own sees it; its file goes into every bundle.

    It takes rows as the recipe prepares them, float32 [B, C, H, W] in [-1, 1] with B free, and gives how sure it is of
    each of its K classes, float32 [B, K] in [0, 1].
    """

    model: Annotated[str, Field(pattern=r"\.(onnx|pt2)$")]  # a file in the project, as `handed` opens it
    block: dict[Shown, Annotated[int, Field(ge=0)]] = Field(min_length=1)  # what to call a class: its place among the K
    at_least: float = Field(0.5, gt=0, le=1)  # how sure it has to be
    action: Literal["count", "block"] = "block"


class Moderation(Strict):
    """What is done about texts of each kind, and about pictures.

    `words` are blocked besides, whole and without regard to case.
    """

    profanity: Action = "count"  # words on the list of better-profanity
    personal_data: Action = "count"  # e-mail addresses, phone numbers, payment cards
    words: tuple[Word, ...] = Field((), max_length=10_000)
    # of a modality that makes pictures; left out where there is none: bundles that were made before stay what they are
    images: Pictures | None = Field(None, exclude_if=lambda images: images is None)


@dataclass(frozen=True)
class Watch:
    """A policy, and more words that whoever asks has blocked."""

    policy: Moderation
    words: Collection[str] = ()

    def found(self, text: str) -> list[Found]:
        """All that the policy counts or blocks."""
        every = content.found(text, {*self.policy.words, *self.words})
        return [one for one in every if self.action(one.kind) != "off"]

    def blocked(self, text: str) -> Found | None:
        """The first thing that is blocked; None where nothing is."""
        return next((one for one in self.found(text) if self.action(one.kind) == "block"), None)

    def action(self, kind: str) -> Action:
        if kind == "words":
            return "block"
        action: Action = getattr(self.policy, kind)
        return action

    @property
    def blocks(self) -> bool:
        """Whether there is anything that it would block."""
        return bool(self.policy.words or self.words) or "block" in (self.policy.profanity, self.policy.personal_data)

    def still_open(self, text: str) -> int:
        """Where in a text begins what more characters may turn into something else; its length where nothing may."""
        return content.still_open(text, {*self.policy.words, *self.words})
