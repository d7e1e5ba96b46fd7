"""Texts ready to train on: one memory-mapped stream of tokens per side, and where each document begins in it.

A side's stream is `end`, then each document in order with `end` behind it: no window goes from one document into the
next without it. Windows lie on the stream one after another. B rows of a batch, T tokens of a window.
"""

import json
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from components import loading
from components.errors import AtelierError
from components.modalities.text import tokenizers
from components.modalities.text.batch import TextSpec, Tokens
from components.modalities.text.rows import decode
from components.modalities.text.tokenizers import Kind, Tokenizer
from components.records import Strict
from components.rows import Row, label_index


class Prepare(Strict):
    """What a recipe's `prepare` says: windows of `context` tokens, cut by a tokenizer: bytes, characters or bpe.

    `vocabulary` is how many tokens bpe learns at most.
    """

    context: int = Field(256, ge=1, le=65_536)
    tokenizer: Kind | Tokenizer = "bytes"  # one that is whole is taken as it is, such as that of a model to go on from
    vocabulary: int = Field(1024, ge=257, le=65_536)


def write(
    accepted: Iterable[Row], directory: Path, *, prepare: Prepare, classes: Sequence[str], counts: Mapping[str, int]
) -> TextSpec:
    """Fill `directory` with the rows of each split in order; an `AtelierError` where a side holds less than a window.

    Memory is bounded by the largest row. The texts lie beside the tokens until the tokenizer is learnt: twice the room.
    """
    with ExitStack() as files:
        texts = {side: _Texts(directory, side, files) for side in counts}
        for row in accepted:
            texts[row.split].add(decode(row.payload), label_index(row, classes))
    assert {side: text.rows for side, text in texts.items()} == dict(counts), "every row that was counted came"
    training = texts["train"].read() if "train" in texts else iter(())
    tokenizer = prepare.tokenizer
    if isinstance(tokenizer, str):
        tokenizer = tokenizers.learn(tokenizer, training, vocabulary=prepare.vocabulary)
    sides = {side: _tokenized(text, directory, side, tokenizer, prepare.context) for side, text in texts.items()}
    for text in texts.values():
        text.drop()
    spec = TextSpec(tokenizer=tokenizer, context=prepare.context, classes=tuple(classes))
    index = {"prepare": prepare.model_dump(mode="json"), "sides": sides, "spec": spec.model_dump(mode="json")}
    (directory / "index.json").write_text(json.dumps(index, sort_keys=True))
    return spec


@dataclass(frozen=True)
class Split:
    """One side of the shards, read from disk as it is asked for.

    Window i begins at token i * context and holds context + 1 tokens, so that its last token is the first of window
    i + 1: every token is predicted once. Fewer than `context` tokens at the very end belong to no window; `stream` has
    them.
    """

    stream: np.ndarray  # [N] ids of the whole side
    starts: np.ndarray  # [documents] int64: the place of each document's first token
    labels: np.ndarray | None  # [documents] int64
    spec: TextSpec
    bytes: int  # of the side's text as UTF-8, without any `end`: what bits per byte are counted over

    def __len__(self) -> int:
        return (len(self.stream) - 1) // self.spec.context

    def batch(self, index: Tensor) -> Tokens:
        """The windows of an index [B], in its order."""
        return self.at(index * self.spec.context)

    def at(self, places: Tensor) -> Tokens:
        """The windows that begin at any places [B] of the stream, 0 to its length - context - 1."""
        places_B = places.numpy()
        tokens_BT = self.stream[places_B[:, None] + np.arange(self.spec.context + 1)].astype(np.int64)
        if self.labels is None:
            return Tokens(torch.from_numpy(tokens_BT), places)
        document_B = np.searchsorted(self.starts, places_B + 1, side="right") - 1
        return Tokens(torch.from_numpy(tokens_BT), places, torch.from_numpy(self.labels[document_B]))

    def texts(self) -> Iterator[str]:
        """Every document of the side, in order."""
        for begin, end in zip(self.starts, [*self.starts[1:], len(self.stream)], strict=True):
            yield self.spec.tokenizer.decode(self.stream[begin:end])

    def consecutive(self, step: int, *, size: int) -> Tensor:
        """The index [size] of the windows of one step of truncated back-propagation, as `loading.consecutive` says."""
        return loading.consecutive(len(self), step=step, size=size)


def open_split(directory: Path, side: str) -> Split:
    """One side of what `write` made."""
    index = json.loads((directory / "index.json").read_bytes())
    spec = TextSpec.model_validate(index["spec"])
    return Split(
        stream=np.memmap(directory / f"{side}.tokens", _kind(spec.tokenizer), "r"),
        starts=np.memmap(directory / f"{side}.starts", "<i8", "r"),
        labels=np.memmap(directory / f"{side}.labels", "<i8", "r") if spec.classes else None,
        spec=spec,
        bytes=index["sides"][side]["bytes"],
    )


def open_augment(directory: Path) -> None:
    """None: no change of a text is sure to leave it a text of the same kind."""


class _Texts:
    """The documents of one side as they came, one after another on disk, until they are tokens."""

    def __init__(self, directory: Path, side: str, files: ExitStack) -> None:
        self._paths = {name: directory / f"{side}.{name}" for name in ("text", "sizes", "labels")}
        self._text, self._sizes, self._labels = (files.enter_context(path.open("wb")) for path in self._paths.values())
        self.rows = self.bytes = 0

    def add(self, text: str, label: int | None) -> None:
        self.rows += 1
        self.bytes += (size := self._text.write(text.encode()))
        _append(self._sizes, size)
        if label is not None:
            _append(self._labels, label)

    def read(self) -> Iterator[str]:
        with self._paths["text"].open("rb") as text, self._paths["sizes"].open("rb") as sizes:
            while size := sizes.read(8):
                yield text.read(struct.unpack("<q", size)[0]).decode()

    def drop(self) -> None:
        """Leave the labels only, and those where there are any."""
        for path in self._paths.values():
            if path.suffix != ".labels" or not path.stat().st_size:
                path.unlink()


def _tokenized(texts: _Texts, directory: Path, side: str, tokenizer: Tokenizer, context: int) -> dict[str, int]:
    """Write the stream of a side; how many tokens, documents and bytes of text it has."""
    end = np.array([tokenizer.end], _kind(tokenizer)).tobytes()
    with (directory / f"{side}.tokens").open("wb") as stream, (directory / f"{side}.starts").open("wb") as starts:
        place = stream.write(end) // len(end)
        for text in texts.read():
            _append(starts, place)
            written = stream.write(tokenizer.encode(text).astype(_kind(tokenizer)).tobytes()) + stream.write(end)
            place += written // len(end)
    if place <= context:
        raise AtelierError(
            f"the {side} side has {place} tokens, but a window of prepare.context {context} needs {context + 1}. Lower "
            "prepare.context, or give the recipe more text."
        )
    return {"tokens": place, "documents": texts.rows, "bytes": texts.bytes}


def _kind(tokenizer: Tokenizer) -> str:
    """The smallest unsigned integers that hold every id, in one byte order on all machines."""
    return "<u1" if tokenizer.size <= 2**8 else "<u2" if tokenizer.size <= 2**16 else "<u4"


def _append(file: BinaryIO, number: int) -> None:
    file.write(struct.pack("<q", number))
