"""What a listener is told to expect; that it understands real recordings is asked by `tests/flows/test_audio.py`."""

import numpy as np
import pytest
import torch

from components.modalities.audio.batch import PAD, Waves
from components.modalities.audio.recogniser import Recogniser, _arcs, spoken, transcripts


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Twenty-one!", "twenty one"),
        ("5 A.M., o'clock", "a.m. o'clock"),
        ("Press  'star'.", "press star"),
        ("12 34", ""),
        ("", ""),
    ],
)
def test_a_transcript_is_the_words_that_a_dictionary_has(text: str, words: str) -> None:
    assert spoken(text) == words


def test_phrases_are_a_tree_of_words() -> None:
    arcs = list(_arcs(["one", "one two", "one three", "four"]))
    assert arcs[0][::3] == (0, "one") and {(begin, end, word) for begin, end, _, word in arcs} == {
        (0, 1, "one"), (0, 1, "four"), (0, 2, "one"), (2, 1, "two"), (2, 1, "three"),
    }  # fmt: skip


def test_a_phrase_with_a_word_that_no_dictionary_has_is_none() -> None:
    known = Recogniser(["One two.", "one two", "zzyzx one", "P.M.", "..."])
    assert known.phrases == ["one two", "p.m."]


def test_silence_and_a_single_sample_are_taken_for_nothing_and_end_in_time() -> None:
    listener = Recogniser(["one", "two"])
    assert listener.heard(np.zeros(8000), 8000) in ("", "one", "two")
    assert listener.heard(np.zeros(1), 8000) in ("", "one", "two")
    sounds = Waves(torch.zeros(2, 800), torch.tensor([800, 1]))
    assert listener.understood(sounds, 8000, ["", ""]) is None
    assert listener.understood(sounds, 8000, ["zzyzx", "unheard of"]) is None


def test_transcripts_are_text_again() -> None:
    rows = torch.tensor([[*b"ab", PAD], [PAD, PAD, PAD]])
    assert transcripts(rows) == ["ab", ""]
