"""What a batch of sounds is, and the facts a network is built around."""

from dataclasses import dataclass

from pydantic import Field
from torch import Tensor

from components.contract import Batch, Spec

PAD = 256  # fills a transcript up behind its bytes


class AudioSpec(Spec):
    """One channel at `rate` Hz in windows of `length` samples; `classes` names the labels, empty where there are none.

    `text` is the longest transcript in bytes of UTF-8, 0 where transcripts are left out; `characters` are those of the
    training side's known ones.
    """

    rate: int = Field(ge=100)
    length: int = Field(ge=1)
    classes: tuple[str, ...] = ()
    text: int = Field(0, ge=0)
    characters: str = Field("", exclude_if=lambda characters: not characters)  # of training transcripts, as `plain` has


@dataclass(frozen=True, slots=True)
class Waves(Batch):
    """`samples` [B, T] float in [-1, 1], 0 behind `lengths` [B] int64; `labels` [B] int64, or none.

    `text` [B, L] int64, or none: the bytes of each transcript, then `PAD`. It is all `PAD` where nobody knows what is
    said: in rows without a transcript, and in each window of a recording that is longer than one.

    `places` [B] int64, or none: a row goes on where another ended exactly when its place is the other's place + length.
    """

    samples: Tensor
    lengths: Tensor
    labels: Tensor | None = None
    text: Tensor | None = None
    places: Tensor | None = None


def plain(text: str) -> str:
    """A text as it is spoken: ASCII in small letters."""
    return "".join(character.lower() if character.isascii() else character for character in text)


SPEC = AudioSpec
