"""Text to numbers and back. A tokenizer is a plain value: it travels inside the Spec, and so with every model."""

import codecs
import json
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from components.errors import AtelierError
from components.records import Strict

if TYPE_CHECKING:  # a model of bytes does without
    import tokenizers
    from tokenizers import models

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

    @property
    def unwritable(self) -> tuple[int, ...]:
        """Tokens that stand for no text in particular, so that none is ever written."""
        return ()

    @abstractmethod
    def encode(self, text: str) -> np.ndarray:
        """The ids [T] of a text, whole numbers without `end`; a `ValueError` names a lone surrogate."""

    @abstractmethod
    def pieces(self) -> Callable[[int], str]:
        """The text that each further token of one row brings, `end` what is left; together they are `decode`'s."""

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

    def pieces(self) -> Callable[[int], str]:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        return lambda token: decoder.decode(b"", final=True) if token == self.end else decoder.decode(bytes([token]))

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

    @property
    def unwritable(self) -> tuple[int, ...]:
        return (self.unknown,)

    def pieces(self) -> Callable[[int], str]:
        return lambda token: "" if token == self.end else self._text(np.array([token]))

    def encode(self, text: str) -> np.ndarray:
        _checked(text)
        known, points = _points(self.characters), _points(text)
        places = np.minimum(np.searchsorted(known, points), len(known) - 1)
        return np.where(known[places] == points, places, self.unknown)

    def _text(self, ids: np.ndarray) -> str:
        table = self.characters + REPLACEMENT * 2  # `end` itself never comes here
        return "".join(table[i] for i in ids.tolist())


class PieceTokens(_Tokens):
    """Pieces of words by byte-pair encoding (arXiv:1508.07909): 256 bytes, then each merge of two tokens, then `end`.

    A space belongs to the word behind it, and no piece crosses from one word into the next (Radford et al., 2019).
    """

    kind: Literal["bpe"] = "bpe"
    merges: tuple[tuple[int, int], ...]

    @model_validator(mode="after")
    def _built_up(self) -> Self:
        for token, (left, right) in enumerate(self.merges, 256):
            if not (0 <= left < token and 0 <= right < token):
                raise ValueError(f"the token {token} merges {left} and {right}, which do not both come before it")
        return self

    @property
    def size(self) -> int:
        return 256 + len(self.merges) + 1

    @property
    def end(self) -> int:
        return 256 + len(self.merges)

    def encode(self, text: str) -> np.ndarray:
        _checked(text)
        return np.array(self._coder.encode(text).ids, np.int64)

    def pieces(self) -> Callable[[int], str]:
        decoder, table = codecs.getincrementaldecoder("utf-8")("replace"), self._bytes
        return lambda token: decoder.decode(b"", final=True) if token == self.end else decoder.decode(table[token])

    def _text(self, ids: np.ndarray) -> str:
        return b"".join(self._bytes[token] for token in ids.tolist()).decode(errors="replace")

    @cached_property
    def _bytes(self) -> list[bytes]:
        """What each token but `end` stands for."""
        table = [bytes([byte]) for byte in range(256)]
        for left, right in self.merges:
            table.append(table[left] + table[right])
        return table

    @cached_property
    def _coder(self) -> "tokenizers.Tokenizer":
        from tokenizers import models

        names = ["".join(map(VISIBLE.__getitem__, piece)) for piece in self._bytes]
        merges = [(names[left], names[right]) for left, right in self.merges]
        return _coder(models.BPE(vocab={name: token for token, name in enumerate(names)}, merges=merges))


Tokenizer = Annotated[ByteTokens | CharacterTokens | PieceTokens, Field(discriminator="kind")]
Kind = Literal["bytes", "characters", "bpe"]


def learn(kind: Kind, training: Iterable[str], *, vocabulary: int = 1024) -> ByteTokens | CharacterTokens | PieceTokens:
    """The tokenizer of a kind for the documents of the training side, which are read once, as a stream.

    A `vocabulary` of pieces has at most so many tokens, `end` among them; fewer where the side is soon used up.
    """
    if kind == "bytes":
        return ByteTokens()
    if kind == "bpe":
        return _pieces(training, vocabulary)
    seen: set[str] = set()
    for text in training:
        seen.update(text)
    if not seen:
        raise AtelierError("the training side holds no characters, so there is no vocabulary to learn from it")
    return CharacterTokens(characters="".join(sorted(seen)))


def _pieces(training: Iterable[str], vocabulary: int) -> PieceTokens:
    from tokenizers import models, trainers

    coder = _coder(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - 1, show_progress=False, initial_alphabet=list(VISIBLE), special_tokens=[]
    )
    coder.train_from_iterator(training, trainer)
    ids = {name: byte for byte, name in enumerate(VISIBLE)}
    merges = []
    for token, (left, right) in enumerate(json.loads(coder.to_str())["model"]["merges"], 256):
        merges.append((ids[left], ids[right]))
        ids.setdefault(left + right, token)
    return PieceTokens(merges=tuple(merges))


def _coder(model: "models.BPE") -> "tokenizers.Tokenizer":
    from tokenizers import Tokenizer, pre_tokenizers

    coder = Tokenizer(model)
    coder.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return coder


def _visible() -> str:
    """A character for each byte, as GPT-2 writes its pieces: its own where that can be seen, else one from 256 on."""
    seen = {*range(33, 127), *range(161, 173), *range(174, 256)}
    hidden = iter(range(256, 512))
    return "".join(chr(byte if byte in seen else next(hidden)) for byte in range(256))


VISIBLE = _visible()


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
