"""The metrics of texts: how well a model foretells held-out ones, and what those that it writes are like.

`bits_per_byte` compares across tokenizers, `bits_saved` against counting, `overfit` says how many fewer bits the
training side takes; `mauve` compares windows with held-out ones, where an extra is installed; the rest are shares in
[0, 1].
"""

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from statistics import fmean
from typing import Any, Literal, Self

import torch
from pydantic import JsonValue
from torch import Tensor

from components import fidelity, loading
from components.controls import PublicControl
from components.loading import Foretold
from components.modalities.text import content, mauve
from components.modalities.text.batch import Tokens
from components.modalities.text.ngrams import Ngrams, Spans
from components.modalities.text.rows import WORD
from components.modalities.text.shards import Split

DIRECTIONS: Mapping[str, Literal["lower", "higher"]] = {
    "bits_per_byte": "lower",
    "bits_saved": "higher",
    "overfit": "lower",
    "copied": "lower",
    "known_words": "higher",
    "distinct": "higher",
    "self_bleu": "lower",
    "repetition": "lower",
    "profane": "lower",
    "personal": "lower",
    "mauve": "higher",
}
# held where a recipe says nothing of the metric; `infra/decisions/0016-gates.md` says where the numbers come from
GATES: Sequence[Mapping[str, Any]] = (
    {"metric": "copied", "not_worse_than": "real", "margin": 0.005},
    {"metric": "repetition", "not_worse_than": "real", "margin": 0.05},
    {"metric": "distinct", "not_worse_than": "real", "margin": 0.3},
    {"metric": "overfit", "at_least": -0.1},  # below: the training side is foretold worse than what was held out
    {"metric": "profane", "not_worse_than": "real", "margin": 0.02},
    {"metric": "personal", "not_worse_than": "real", "margin": 0.01},
)
OF_ROWS = ("copied", "repetition", "profane", "personal")  # shares of each text: they vary less than if it were one
COPIED = 0.5  # of a text, no more of which is new than that: half its spans stand in the training side word for word
EVIDENCE = 12  # texts that are shown for what they copy
ROWS = 16  # windows that are foretold at once, each row going on where it ended
WORDS = 2000  # of the texts together: the share of distinct pairs falls with their number
KNOWN = 4  # the training side is foretold over a part of it as long as one in so many of the held-out side
TEXTS = 64  # that are held against each other
RUN = 4  # words
REAL_AT_MOST = 256  # held-out windows that generated texts are compared with
PARTIAL = re.compile(r"^\S*\s")

Nats = Callable[..., tuple[Tensor, Any] | None]
Requests = Sequence[Mapping[str, Any]]


def lacking(
    metric: str, *, controls: Collection[str], prepare: Mapping[str, JsonValue], inspected: bool = False
) -> str | None:
    """What a recipe has to offer or prepare before such a metric can be measured; None where it does."""
    if metric == "mauve" and not mauve.installed():
        return f"mauve cannot be measured: {mauve.LACKING}"
    return None


@dataclass(frozen=True)
class Reference:
    """What generated texts and their model are held against: both sides of the data."""

    train: Split
    held_out: Split

    @classmethod
    def of(cls, train: Split, held_out: Split, encoder: None, *, classes: tuple[str, ...]) -> Self:
        return cls(train, held_out)

    def measure(self, generated: Tokens, asked: Requests = ({},)) -> dict[str, float]:
        """Every metric of this modality for one set of generated texts."""
        windows = Tokens(generated.tokens[:, : self.held_out.spec.context])  # to be compared with windows
        return self._of_texts(self._texts(generated)) | _mauve(self._real, self._texts(windows))

    def likelihood(self, nats: Nats) -> Foretold:
        """How well a model foretells the held-out side, and how much better a part of the training side."""
        bits_B = self._bits(self.held_out, nats)
        if bits_B is None:
            return {}, {}
        trained_B = self._bits(self.train, nats, share=KNOWN)
        assert trained_B is not None
        told = {"bits_per_byte": bits_B, "bits_saved": self._counted - bits_B, "overfit": bits_B.mean() - trained_B}
        parts = {name: tuple(found_B.tolist()) for name, found_B in told.items()}
        return {name: fmean(values) for name, values in parts.items()}, parts

    def _bits(self, side: Split, nats: Nats, *, share: int = 1) -> Tensor | None:
        """Bits a byte [B] of parts of a side, through which a row reads on each: of the text, whatever the tokens are.

        At most `ROWS` windows at the end are left out, and of each part what is beyond the length of held-out ones, or
        beyond one in `share` of that.
        """
        rows = min(ROWS, len(side), len(self.held_out))
        steps = max(1, min(len(side), len(self.held_out)) // rows // share)
        total_B, memory = torch.zeros(rows, dtype=torch.float64), None
        for step in range(steps):
            told = nats(side.batch(loading.consecutive(len(side), step=step, size=rows)), memory)
            if told is None:
                return None
            nats_B, memory = told
            total_B += nats_B.double()
        return total_B / math.log(2) / (steps * side.spec.context) * (len(side.stream) - 1) / side.bytes

    def placed(self, rows: Tokens) -> fidelity.Placed:
        """How improbable each text is to counting, in bits a byte, and which share of its spans is new."""
        texts = self._texts(rows)
        far = [self._runs.bits_per_byte([text]) if text else math.inf for text in texts]
        return fidelity.Placed(torch.tensor(far), torch.tensor([1 - self._spans.share([text]) for text in texts]))

    def real(self, count: int) -> Tokens:
        """So many held-out windows, evenly over the side; all of them where there are fewer."""
        return self.held_out.batch(torch.linspace(0, len(self.held_out) - 1, min(count, len(self.held_out))).long())

    def seen(self, rows: Tokens) -> None:
        """Nothing here tells the class of a text."""

    def worth(self, generated: Sequence[Tokens], labels_N: Tensor, *, asked: bool) -> dict[str, float]:
        """Nothing: no classifier of texts is taught here."""
        return {}

    def evidence(self, generated: Tokens) -> dict[str, bytes]:
        """The texts with most in them that stands in the training side word for word, and where it stands."""
        texts = self._texts(generated)
        found = [(self._spans.found(text), text) for text in texts]
        found.sort(key=lambda one: -sum(end - start for start, end in one[0]))
        worst = [{"text": text, "copied": spans} for spans, text in found[:EVIDENCE] if spans]
        return {"copied.json": json.dumps(worst, ensure_ascii=False).encode()}

    @cached_property
    def _real(self) -> list[str]:
        """Held-out windows, evenly over the side."""
        index = torch.linspace(0, len(self.held_out) - 1, min(REAL_AT_MOST, len(self.held_out))).long()
        return self._texts(self.held_out.batch(index))

    @cached_property
    def _counted(self) -> float:
        """The bits a byte of counting runs of five bytes, a model of the same training side."""
        return self._runs.bits_per_byte(self.held_out.texts())

    @cached_property
    def _runs(self) -> Ngrams:
        return Ngrams.of(self.train.texts())

    @cached_property
    def _spans(self) -> Spans:
        return Spans.of(self.train.texts())

    @cached_property
    def _words(self) -> frozenset[str]:
        return frozenset(word for text in self.train.texts() for word in _words(text))

    def _of_texts(self, texts: Sequence[str]) -> dict[str, float]:
        words = [_words(text) for text in texts]
        every = [word for one in words for word in one]
        return {
            "copied": self._spans.share(texts),
            "known_words": _share(word in self._words for one in words for word in one[:-1]),  # the last may be cut
            "distinct": _distinct(every[:WORDS]),
            "self_bleu": self_bleu(words[:TEXTS]),
            "profane": fmean(map(content.profane_share, texts)),
            "personal": _share(any(one.kind == "personal_data" for one in content.found(text)) for text in texts),
            "repetition": _share(known for one in words for known in _repeated(one)),
        }

    def given(self, count: int) -> None:
        """Texts are written from seeds alone."""

    def requests(self, controls: Mapping[str, PublicControl]) -> Requests:
        """What generated rows are asked for: as long as the windows that they are held against, where it may be."""
        if (length := controls.get("max_tokens")) is None or length.choices is not None:
            return [{}]
        context, most = self.held_out.spec.context, length.at_most
        return [{"max_tokens": context if most is None else min(context, int(most))}]

    def floor(self) -> dict[str, float]:
        """The same metrics for held-out texts, in pieces of one window that begin with a whole word."""
        texts = [PARTIAL.sub("", text) for text in self._real]
        return {**self._of_texts(texts), **_mauve(texts[::2], texts[1::2]), "bits_per_byte": self._counted}

    def sheets(self, generated: Tokens) -> dict[str, bytes]:
        """What a person reads: generated texts, and as many held-out ones."""
        index = torch.linspace(0, len(self.held_out) - 1, len(generated)).long()
        shown = {"generated": generated, "held_out": self.held_out.batch(index)}
        return {f"{name}.txt": "\n\n----\n\n".join(self._texts(rows)).encode() for name, rows in shown.items()}

    def _texts(self, rows: Tokens) -> list[str]:
        return [self.train.spec.tokenizer.decode(row) for row in rows.tokens.cpu().numpy()]


def _mauve(real: Sequence[str], generated: Sequence[str]) -> dict[str, float]:
    """Nothing where no vectors of words are installed."""
    return {"mauve": mauve.mauve(real, generated)} if mauve.installed() else {}


def self_bleu(texts: Sequence[Sequence[str]]) -> float:
    """How alike texts are to one another: the mean BLEU of each against all others (arXiv:1802.01886), 0 to 1.

    Runs of up to four words count, each as often as the text that has most of it; a text of fewer words counts as 0.
    """
    runs = [[Counter(_runs(text, length)) for length in range(1, RUN + 1)] for text in texts]
    scores = []
    for mine, text in enumerate(texts):
        shares = []
        for place in range(RUN):
            counts = runs[mine][place]
            most: Counter[tuple[str, ...]] = Counter()
            for other, theirs in enumerate(runs):
                if other != mine:
                    most |= Counter({run: theirs[place][run] for run in counts.keys() & theirs[place].keys()})
            shares.append(sum((counts & most).values()) / max(sum(counts.values()), 1))
        scores.append(math.exp(sum(map(math.log, shares)) / RUN) if len(text) >= RUN and all(shares) else 0.0)
    return sum(scores) / max(len(scores), 1)


def _words(text: str) -> list[str]:
    words: list[str] = WORD.findall(text.casefold())
    return words


def _runs(words: Sequence[str], length: int) -> Iterator[tuple[str, ...]]:
    return zip(*(islice(words, start, None) for start in range(length)), strict=False)


def _distinct(words: Sequence[str]) -> float:
    """The share of pairs of words that are different from one another (distinct-2, arXiv:1510.03055)."""
    pairs = list(_runs(words, 2))
    return len(set(pairs)) / max(len(pairs), 1)


def _repeated(words: Sequence[str]) -> Iterator[bool]:
    """Of each run of four words in a text, whether it stood there before."""
    seen: set[tuple[str, ...]] = set()
    for run in _runs(words, RUN):
        yield run in seen
        seen.add(run)


def _share(answers: Iterable[bool]) -> float:
    told = list(answers)
    return sum(told) / len(told) if told else 0.0
