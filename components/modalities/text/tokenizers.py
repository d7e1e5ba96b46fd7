"""Text to numbers and back. A tokenizer is a plain value: it travels inside the Spec, and so with every model.

Another kind (BPE) is one more class with a `kind` of its own, here, in `Tokenizer` and in `learn`.
"""

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from components.contract import Strict
from components.errors import AtelierError

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class _Tokens(Strict):
    """What every tokenizer does. Its special tokens have the last ids, and `end` is one of them in every kind."""

    @property
    @abstractmethod
    def size(self) -> int:
        """How many tokens there are; the ids are 0 to size - 1."""

    @property
    @abstractmethod
    def end(self) -> int:
        """The token before and after every document; it also fills a row up behind its text."""

    @abstractmethod
    def encode(self, text: str) -> np.ndarray:
        """The ids [T] of a text, whole numbers without `end`; a `ValueError` names a lone surrogate."""

    @abstractmethod
    def _text(self, ids: np.ndarray) -> str:
        """The text of ids that hold no `end`; what is no whole character shows as U+FFFD."""

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of a row: from behind the `end` that it may begin with to the next one; broken parts as U+FFFD."""
        row = np.asarray(ids, np.int64)
        ends = np.flatnonzero(row == self.end)
        start = 1 if len(row) and row[0] == self.end else 0
        later = ends[ends >= start]
        return self._text(row[start : later[0] if len(later) else len(row)])


class ByteTokens(_Tokens):
    """The 256 bytes of UTF-8, and then `end`: any text at all, and no vocabulary to learn."""

    kind: Literal["bytes"] = "bytes"

    @property
    def size(self) -> int:
        return 257

    @property
    def end(self) -> int:
        return 256

    def encode(self, text: str) -> np.ndarray:
        return np.frombuffer(_checked(text), np.uint8)

    def _text(self, ids: np.ndarray) -> str:
        return ids.astype(np.uint8).tobytes().decode(errors="replace")


class CharacterTokens(_Tokens):
    """The characters of the training side in the order of their code points, then `end`, then one for all others."""

    kind: Literal["characters"] = "characters"
    characters: str = Field(min_length=1)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if list(self.characters) != sorted(set(self.characters)):
            raise ValueError("the characters of a vocabulary come once each, in the order of their code points")
        return self

    @property
    def size(self) -> int:
        return len(self.characters) + 2

    @property
    def end(self) -> int:
        return len(self.characters)

    @property
    def unknown(self) -> int:
        """The token of every character that is not in the vocabulary."""
        return len(self.characters) + 1

    def encode(self, text: str) -> np.ndarray:
        _checked(text)
        known, points = _points(self.characters), _points(text)
        places = np.minimum(np.searchsorted(known, points), len(known) - 1)
        return np.where(known[places] == points, places, self.unknown)

    def _text(self, ids: np.ndarray) -> str:
        table = self.characters + REPLACEMENT * 2  # `end` itself never comes here
        return "".join(table[i] for i in ids.tolist())


Tokenizer = Annotated[ByteTokens | CharacterTokens, Field(discriminator="kind")]
Kind = Literal["bytes", "characters"]


def learn(kind: Kind, training: Iterable[str]) -> ByteTokens | CharacterTokens:
    """The tokenizer of a kind for the documents of the training side, which are read once, as a stream."""
    if kind == "bytes":
        return ByteTokens()
    seen: set[str] = set()
    for text in training:
        seen.update(text)
    if not seen:
        raise AtelierError("the training side holds no characters, so there is no vocabulary to learn from it")
    return CharacterTokens(characters="".join(sorted(seen)))


def _points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le"), "<u4")


def _checked(text: str) -> bytes:
    """The text as UTF-8, if it can be written so at all."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"the text holds the lone surrogate U+{ord(text[error.start]):04X} at character {error.start}: half of a "
            "character, as a broken \\u escape leaves it. Leave it out, or write the whole character."
        ) from None
