"""What a listener makes of speech: PocketSphinx, offline, with a list of phrases of which one was said.

Its acoustic model and dictionary of American English come with the package. N sounds.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from components.modalities.audio import codec
from components.modalities.audio.batch import PAD, Waves
from components.modalities.audio.shards import resampled

RATE = 16_000  # of the acoustic model
WORD = re.compile(r"(?:[a-z]\.){2,}|[a-z]+(?:'[a-z]+)*")  # a.m., o'clock
QUIET = 0.1  # s of silence before and behind, which it needs to begin and to end


class Recogniser:
    """One that knows so many phrases; those with a word that its dictionary lacks are none."""

    def __init__(self, texts: Iterable[str]) -> None:
        from pocketsphinx import Decoder

        self._decoder = Decoder(lm=None, loglevel="FATAL", samprate=RATE)
        phrases = sorted({phrase for text in texts if (phrase := spoken(text))})
        self.phrases = [phrase for phrase in phrases if all(map(self._decoder.lookup_word, phrase.split()))]
        if self.phrases:
            self._decoder.add_fsg("said", self._decoder.create_fsg("said", 0, 1, list(_arcs(self.phrases))))
            self._decoder.activate_search("said")

    def heard(self, samples: np.ndarray, rate: int) -> str:
        """Which phrase a sound [N] in [-1, 1] is taken for; an empty one where it is taken for none."""
        silence = np.zeros(round(QUIET * RATE))
        whole = np.concatenate([silence, resampled(samples.astype(np.float64), rate, RATE), silence])
        self._decoder.start_utt()
        self._decoder.process_raw(codec.to_whole(torch.from_numpy(whole)).astype("<i2").tobytes(), full_utt=True)
        self._decoder.end_utt()
        told = self._decoder.hyp()
        return told.hypstr if told else ""

    def understood(self, sounds: Waves, rate: int, texts: Sequence[str]) -> float | None:
        """The share of sounds that are taken for what they should say; None where it knows none of the texts."""
        asked = [(row, phrase) for row, text in enumerate(texts) if (phrase := spoken(text)) in self._known]
        if not asked:
            return None
        lengths, samples = sounds.lengths.tolist(), sounds.samples.numpy()
        right = [self.heard(samples[row, : lengths[row]], rate) == phrase for row, phrase in asked]
        return sum(right) / len(right)

    @cached_property
    def _known(self) -> frozenset[str]:
        return frozenset(self.phrases)


def _arcs(phrases: Iterable[str]) -> Iterator[tuple[int, int, float, str]]:
    """A tree of words as states, 0 where nothing is said and 1 where a phrase is whole: from, to, share, word."""
    states: dict[tuple[str, ...], int] = {(): 0}
    arcs: dict[tuple[int, int, str], None] = {}
    for phrase in phrases:
        words = tuple(phrase.split())
        for count in range(1, len(words)):
            states.setdefault(words[:count], len(states) + 1)
            arcs[states[words[: count - 1]], states[words[:count]], words[count - 1]] = None
        arcs[states[words[:-1]], 1, words[-1]] = None
    for begin, end, word in arcs:
        yield begin, end, 1.0, word


def spoken(text: str) -> str:
    """A transcript as words that a dictionary has: small letters, apostrophes, and single spaces."""
    return " ".join(WORD.findall(text.lower()))


def transcripts(text_BL: Tensor) -> list[str]:
    """The text of each row, empty where none is known."""
    rows = [row[row != PAD].tolist() for row in text_BL]
    return [bytes(row).decode(errors="replace") for row in rows]
