"""Metrics of texts: planted faults move them, and what counting says is what it should say."""

import json
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from components.controls import PublicControl
from components.modalities.text import mauve, metrics
from components.modalities.text.batch import Tokens
from components.modalities.text.ngrams import SPAN, Ngrams, Spans
from components.modalities.text.shards import Prepare, open_split, write
from components.modalities.text.tokenizers import ByteTokens
from components.rows import Row

WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "while", "seven", "wizards", "box", "ale"]


def story(seed: int, words: int = 400) -> str:
    drawn = np.random.default_rng(seed).choice(WORDS, words)
    return " ".join(drawn.tolist())


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> metrics.Reference:
    folder: Path = tmp_path_factory.mktemp("shards")
    sides = {"train": range(8), "held_out": range(8, 12)}
    rows = [Row(f"r{seed}", story(seed).encode(), None, None, side) for side, seeds in sides.items() for seed in seeds]
    counts = {side: len(seeds) for side, seeds in sides.items()}
    write(iter(rows), folder, prepare=Prepare(context=64), classes=(), counts=counts)
    return metrics.Reference.of(open_split(folder, "train"), open_split(folder, "held_out"), None, classes=())


def tokens(*texts: str) -> Tokens:
    longest = max(len(text.encode()) for text in texts)
    rows = [[*text.encode(), *[ByteTokens().end] * (longest - len(text.encode()))] for text in texts]
    return Tokens(torch.tensor(rows))


def measured(reference: metrics.Reference, *texts: str) -> dict[str, float]:
    return reference.measure(tokens(*texts))


def test_texts_like_the_data_look_like_them(reference: metrics.Reference) -> None:
    floor, found = reference.floor(), measured(reference, *(story(seed, 15) for seed in range(100, 160)))
    for name in ("known_words", "distinct", "repetition", "copied"):
        assert found[name] == pytest.approx(floor[name], abs=0.06), name
    assert found.keys() <= metrics.DIRECTIONS.keys()


def test_a_planted_copier_is_seen_to_the_span(reference: metrics.Reference) -> None:
    whole = story(3)[100:300]
    assert measured(reference, whole)["copied"] == 1.0
    other = "".join(reversed(whole))
    half = measured(reference, whole, other)["copied"]
    assert half == 0.5
    held_out = story(9)[:200]
    assert measured(reference, held_out)["copied"] == 0.0


def test_a_parrot_repeats_and_a_babbler_says_no_word(reference: metrics.Reference) -> None:
    parrot = "the quick brown fox " * 20
    assert measured(reference, parrot)["repetition"] > 0.9
    assert measured(reference, parrot, parrot)["self_bleu"] == pytest.approx(1.0)
    assert measured(reference, parrot)["distinct"] < 0.1
    assert measured(reference, "zzq wrm klpt xv")["known_words"] == 0.0
    assert measured(reference, "the zzq and")["known_words"] == 0.5


def test_texts_of_different_words_have_nothing_in_common() -> None:
    assert metrics.self_bleu([["a", "b", "c", "d"], ["e", "f", "g", "h"]]) == 0.0
    assert 0 < metrics.self_bleu([list("abcdefgh"), list("abcdxyzw")]) < 1
    assert metrics.self_bleu([["a"]]) == 0.0


def test_a_model_that_knows_nothing_needs_eight_bits_a_byte_and_one_that_counts_is_as_good_as_counting(
    reference: metrics.Reference,
) -> None:
    """The mean over the whole side, `end`s too, whatever a step holds."""
    vocabulary = ByteTokens().size

    def uniform(rows: Tokens, memory: object) -> tuple[torch.Tensor, object]:
        return torch.full((len(rows),), 64 * math.log(vocabulary)), memory

    told, parts = reference.likelihood(uniform)
    assert parts["bits_per_byte"] == pytest.approx([told["bits_per_byte"]] * 16)
    stream, size = len(reference.held_out.stream) - 1, reference.held_out.bytes
    assert told["bits_per_byte"] == pytest.approx(math.log2(vocabulary) * stream / size, rel=1e-9)
    counted = reference.floor()["bits_per_byte"]
    assert told["bits_saved"] == pytest.approx(counted - told["bits_per_byte"])
    assert 0.5 < counted < 2.0  # of words drawn from fourteen, 3.8 bits a word of 5 bytes


def test_a_state_is_handed_from_each_window_to_the_one_that_follows_it(reference: metrics.Reference) -> None:
    seen: list[tuple[torch.Tensor, object]] = []

    def noted(rows: Tokens, memory: object) -> tuple[torch.Tensor, object]:
        assert rows.places is not None
        seen.append((rows.places, memory))
        return torch.ones(len(rows)), len(seen)

    reference.likelihood(noted)
    whole = [memory for _, memory in seen].index(None, 1)  # the held-out side, then a part of the training side
    assert len(seen) - whole == max(1, whole // metrics.KNOWN)
    for begin, end in ((0, whole), (whole, len(seen))):
        assert [memory for _, memory in seen[begin:end]] == [None, *range(begin + 1, end)]
        for (before, _), (after, _) in pairwise(seen[begin:end]):
            assert torch.equal(before + 64, after)


def test_texts_as_long_as_a_window_are_asked_for_where_they_may_be(reference: metrics.Reference) -> None:
    def asked(**limits: int) -> list[object]:
        control = PublicControl(default=8, **limits)
        return [one["max_tokens"] for one in reference.requests({"max_tokens": control})]

    assert reference.requests({}) == [{}]
    assert asked(at_least=1, at_most=1024) == [64] and asked(at_least=1, at_most=32) == [32]


def test_sides_that_were_swapped_in_training_show_in_what_is_foretold(reference: metrics.Reference) -> None:
    every = reference.held_out.batch(torch.arange(len(reference.held_out)))
    held_out = {row.numpy().tobytes() for row in every.tokens}

    def knows_held_out(rows: Tokens, memory: object) -> tuple[torch.Tensor, object]:
        known = [row.numpy().tobytes() in held_out for row in rows.tokens]
        return torch.tensor([1.0 if one else 2.0 for one in known]) * 64 * math.log(2), memory

    told, parts = reference.likelihood(knows_held_out)
    assert told["overfit"] == pytest.approx(-told["bits_per_byte"], rel=0.05)
    assert len(parts["overfit"]) == 16


def test_profanity_and_personal_data_are_counted_by_words_and_by_texts(reference: metrics.Reference) -> None:
    plain = [story(seed, 20) for seed in range(100, 119)]
    clean = reference.measure(tokens(*plain, story(119, 20)))
    assert clean["profane"] == clean["personal"] == 0
    said = "shit " * 5 + story(119, 15) + " to ana@example.org"
    found = reference.measure(tokens(*plain, said))
    assert found["personal"] == pytest.approx(1 / 20)
    assert found["profane"] == pytest.approx(5 / 24 / 20, rel=0.05)


def test_copied_spans_are_shown_where_they_stand(reference: metrics.Reference) -> None:
    known = reference.train.texts()
    one = next(iter(known))
    text = "Ünheard: " + one[:80]
    shown = json.loads(reference.evidence(tokens(text))["copied.json"])
    (start, end), *more = shown[0]["copied"]
    assert shown[0]["text"] == text and not more
    assert text[start:end] in one and end - start >= 75
    assert json.loads(reference.evidence(tokens("0123456789" * 12))["copied.json"]) == []


def test_a_family_that_cannot_say_has_no_bits(reference: metrics.Reference) -> None:
    assert reference.likelihood(lambda rows, memory: None) == ({}, {})


def test_counting_foretells_what_it_saw_and_is_sure_of_nothing_it_did_not() -> None:
    model = Ngrams.of(["abcd" * 200])
    assert model.bits_per_byte(["abcd" * 50]) < 0.1
    assert model.bits_per_byte(["zzzz"]) > 7
    # by hand: after "a" came "b" twice and nothing else; one kind, so that 2 / 3 go to it and 1 / 3 further down
    small = Ngrams.of(["ab", "ab"])
    lower = (2 + 2 * (1 / 256)) / (4 + 2)  # "b" by itself: 2 of 4 bytes, of 2 kinds
    start = lower
    for _ in range(4):  # "a" at the start of a text, by runs of one to four starts
        start = (2 + start) / 3
    after = lower
    for _ in range(4):
        after = (2 + after) / 3
    assert small.bits_per_byte(["ab"]) == pytest.approx(-(math.log2(start) + math.log2(after)) / 2)


def test_spans_are_found_wherever_they_stand() -> None:
    text = story(1)
    known = Spans.of([text, "short"])
    assert known.share([text[37 : 37 + SPAN]]) == 1.0
    assert known.share([text[37 : 37 + SPAN - 1] + "#"]) == 0.0
    assert known.share(["too short"]) == 0.0 and Spans.of([]).share([text]) == 0.0


def test_sheets_are_texts_to_read(reference: metrics.Reference) -> None:
    sheets = reference.sheets(tokens("one text", "an\u00e9other"))
    assert sheets["generated.txt"].decode() == "one text\n\n----\n\nan\u00e9other"
    assert len(sheets["held_out.txt"].decode().split("\n\n----\n\n")) == 2


def test_other_tokens_are_counted_over_the_same_bytes(reference: metrics.Reference) -> None:
    """Twice as many bytes a token are half as many bits a byte for the same bits a token."""

    def one_bit(rows: Tokens, memory: object) -> tuple[torch.Tensor, object]:
        return torch.full((len(rows),), 64 * math.log(2)), memory

    bits = reference.likelihood(one_bit)[0]["bits_per_byte"]
    longer = replace(reference, held_out=replace(reference.held_out, bytes=2 * reference.held_out.bytes))
    assert longer.likelihood(one_bit)[0]["bits_per_byte"] == pytest.approx(bits / 2)


def test_mauve_tells_other_words_apart_where_vectors_of_words_are_installed(
    reference: metrics.Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told() -> str | None:
        return metrics.lacking("mauve", controls=(), prepare={})

    if mauve.installed():
        near = measured(reference, *(story(seed, 15) for seed in range(100, 160)))
        far = measured(reference, *(f"{seed} xylophones" for seed in range(60)))
        assert told() is None and far["mauve"] < 0.1 < near["mauve"] <= 1
        assert measured(reference, "", "")["mauve"] < 0.5
    monkeypatch.setattr(mauve, "installed", lambda: False)
    assert "pip install wordllama" in str(told()) and "mauve" not in measured(reference, story(0, 15))


def test_the_frontier_is_one_of_equals_and_none_of_strangers() -> None:
    pytest.importorskip("sklearn")
    draws = np.random.default_rng(0).standard_normal((3, 200, 8))
    assert mauve.frontier(draws[0], draws[0]) == pytest.approx(1, abs=1e-3)
    assert 0.7 < mauve.frontier(draws[0], draws[1]) < 1
    assert mauve.frontier(draws[0], draws[2] + 10) < 0.05


def test_where_a_text_stands_tells_a_copy_and_what_is_unlike_any(reference: metrics.Reference) -> None:
    placed = reference.placed(tokens(story(3)[100:300], story(200)[:200], "qzx jvk wpf " * 16))
    assert placed.alone_N.tolist() == [0.0, 1.0, 1.0]
    real = reference.placed(reference.real(40))
    assert placed.far_N[1] < real.far_N.max() < placed.far_N[2] and real.alone_N.min() > metrics.COPIED
