"""What is said of one text's bytes: known answers, and no exception for hostile ones."""

import hashlib
import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as some

from components.modalities.text.rows import FACTS, decode, facts, near_hash
from tests.components.modalities.text import corpus


def test_the_facts_of_a_text() -> None:
    payload = "Größe: 12\nΩ!\n".encode()
    told = facts(payload)
    assert list(told) == FACTS.names
    assert told == {
        "digest": hashlib.sha256(payload).hexdigest(),
        "content_digest": hashlib.sha256("Größe: 12\nΩ!".encode()).hexdigest(),
        "decodes": True,
        "bytes": 16,
        "characters": 13,
        "visible": 10,
        "lines": 2,
        "longest_line": 9,
        "control_share": 0.0,
        "replacement_share": 0.0,
        "letter_share": 0.6,
        "script": "LATIN",
        "language": "de",
        "profane_share": 0.0,
        "addresses": 0,
        "phones": 0,
        "cards": 0,
        "near_hash": near_hash("größe 12 ω"),
        "error": None,
    }


@pytest.mark.parametrize(
    "other",
    ["Cafe\u0301 noir\n", "\ufeffCafé noir\n", "Café noir\r\n", "Café noir  \n\n", "Café noir", "Café noir\t\r"],
    ids=["decomposed", "mark", "CRLF", "trailing space", "no newline", "CR"],
)
def test_the_same_text_has_one_content_digest_in_any_form(other: str) -> None:
    told, first = facts(other.encode()), facts("Café noir\n".encode())
    assert told["content_digest"] == first["content_digest"] and told["digest"] != first["digest"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("write to jo.smith+x@mail.example.co.uk, or not", (1, 0, 0)),
        ("a@b.de c@d.fr", (2, 0, 0)),
        ("no address: a@b, @home, me@", (0, 0, 0)),
        ("call +49 30 901820-12 or (212) 555-0123, or 212-555-0123", (0, 3, 0)),
        ("in 1616, lines 10-20, 3.14159265, 12 34 56, Henry 4-5-6", (0, 0, 0)),
        ("card 4111 1111 1111 1111, and 5500-0000-0000-0004", (0, 0, 2)),
        ("4111 1111 1111 1112 has a wrong check digit; 0000000000000000 none", (0, 0, 0)),
    ],
)
def test_personal_data_are_counted(text: str, found: tuple[int, int, int]) -> None:
    told = facts(text.encode())
    assert (told["addresses"], told["phones"], told["cards"]) == found


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("To be, or not to be, that is the question", "en"),
        ("Zwei Dinge sind unendlich, das Universum und mehr", "de"),
        ("Le chat est noir et le chien est blanc", "fr"),
        ("東京は日本の首都であり、世界最大の都市圏である", "ja"),
        ("12 34 !?", None),
    ],
)
def test_the_language_of_a_text_is_told(text: str, language: str | None) -> None:
    assert facts(text.encode())["language"] == language


def test_profane_words_are_counted_and_what_only_holds_their_letters_is_not() -> None:
    assert facts(b"Oh shit, he said")["profane_share"] == 0.25
    assert facts(b"An assassin in Scunthorpe drinks a cocktail")["profane_share"] == 0


def test_digits_and_signs_without_end_are_searched_in_time() -> None:
    begun = time.monotonic()
    for hostile in ("1" * 100_000, "1 " * 50_000, "a." * 50_000 + "@", "a@" + "a." * 50_000, "+1 (" * 25_000):
        facts(hostile.encode())
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize("other", ["Cafe noir", "Café  noir", "café noir", " Café noir", "Café\nnoir"])
def test_another_text_has_another_content_digest(other: str) -> None:
    assert facts(other.encode())["content_digest"] != facts("Café noir".encode())["content_digest"]


@pytest.mark.parametrize(
    ("payload", "error"),
    [
        (b"caf\xe9 noir", "not UTF-8: byte 0xe9 at offset 3 (invalid continuation byte)"),
        (b"abc\xff", "not UTF-8: byte 0xff at offset 3 (invalid start byte)"),
        (b"\xed\xa0\x80", "not UTF-8: byte 0xed at offset 0 (invalid continuation byte)"),  # a lone surrogate
        (b"\xc0\x80", "not UTF-8: byte 0xc0 at offset 0 (invalid start byte)"),  # NUL the long way
        (b"\xf4\x90\x80\x80", "not UTF-8: byte 0xf4 at offset 0 (invalid continuation byte)"),  # beyond U+10FFFF
        ("€".encode()[:2], "not UTF-8: byte 0xe2 at offset 0 (unexpected end of data)"),
        (
            "hi".encode("utf-16"),
            "not UTF-8: byte 0xff at offset 0 (invalid start byte); it begins with the mark of UTF-16",
        ),
        (
            "hi".encode("utf-32"),
            "not UTF-8: byte 0xff at offset 0 (invalid start byte); it begins with the mark of UTF-32",
        ),
    ],
)
def test_what_is_not_utf8_is_told_with_its_first_wrong_byte(payload: bytes, error: str) -> None:
    told = facts(payload)
    assert (told["decodes"], told["error"], told["content_digest"]) == (False, error, None)
    assert told["bytes"] == len(payload) and told["digest"] == hashlib.sha256(payload).hexdigest()


def test_an_escaped_surrogate_is_plain_text() -> None:
    told = facts(rb'{"half": "\ud800"}')
    assert told["decodes"] and told["characters"] == 18


def test_control_and_replacement_characters_are_counted_but_no_newlines_and_tabs() -> None:
    told = facts(b"a\x00b\x1b\tc\r\n\x7f" + "\ufffd\ufffd".encode())
    assert told["characters"] == 10
    assert (told["control_share"], told["replacement_share"]) == (0.3, 0.2)


@pytest.mark.parametrize("payload", [b"", b" \n\t\r\n", "\ufeff\u200b\u3000".encode()])
def test_a_text_of_nothing_shows_nothing(payload: bytes) -> None:
    told = facts(payload)
    assert (told["decodes"], told["visible"], told["script"], told["near_hash"]) == (True, 0, None, None)


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("The rest is silence", "LATIN"),
        ("Ｆｕｌｌ ｗｉｄｔｈ", "LATIN"),
        ("Война и миръ (War)", "CYRILLIC"),
        ("吾輩は猫である。名前未定", "CJK"),
        ("ありがとう", "HIRAGANA"),
        ("שלום", "HEBREW"),
        ("1 + 1 = 2", None),
    ],
)
def test_the_script_is_that_of_most_letters(text: str, script: str | None) -> None:
    assert facts(text.encode())["script"] == script


def test_a_line_of_a_megabyte_is_told_in_a_moment() -> None:
    line = corpus.text(0, 200_000).replace("\n", " ").encode()
    started = time.perf_counter()
    told = facts(line)
    assert len(line) > 10**6 and told["longest_line"] == len(line) and told["lines"] == 1
    assert time.perf_counter() - started < 5


@given(some.binary(max_size=200))
def test_no_bytes_raise(payload: bytes) -> None:
    told = facts(payload)
    assert list(told) == FACTS.names
    assert told["decodes"] == (told["error"] is None)


@given(some.text(max_size=200).filter(lambda text: not text.startswith("\ufeff")))
def test_every_text_is_told_and_one_that_was_read_reads_the_same(text: str) -> None:
    told = facts(text.encode())
    assert told["decodes"] and 0 <= told["visible"] <= told["characters"]
    once = decode(text.encode())
    assert decode(once.encode()) == once and facts(once.encode())["content_digest"] == told["content_digest"]


def changed(drawn: list[str], count: int, seed: int) -> str:
    """The words with `count` of them replaced by one of no other text."""
    chance, copy = random.Random(seed), list(drawn)
    for place in chance.sample(range(len(copy)), count):
        copy[place] = f"zz{chance.randrange(10**9)}"
    return " ".join(copy)


def test_the_near_hash_bears_case_punctuation_accents_and_spacing() -> None:
    text = "To be, or not to be -- that is the question;\n\tWhether 'tis nobler in the mind to suffer"
    for other in (
        text.upper(),
        text.replace(",", "").replace("--", "—").replace("\n\t", "   "),
        text.replace("question", "quéstion"),
        text.replace("e", "ｅ"),  # full width
    ):
        assert near_hash(other) == near_hash(text)
    assert near_hash("To be!") == near_hash("to be") != near_hash("be to")


@pytest.mark.parametrize(("replaced", "low", "high"), [(1, 0.68, 0.88), (3, 0.37, 0.60), (10, 0.04, 0.22)])
def test_the_near_hash_finds_texts_that_share_most_words_as_often_as_it_says(
    replaced: int, low: float, high: float
) -> None:
    found = 0
    for seed in range(300):
        drawn = corpus.words(seed, 100)
        found += near_hash(" ".join(drawn)) == near_hash(changed(drawn, replaced, seed))
    assert low < found / 300 < high


def test_texts_of_their_own_have_near_hashes_of_their_own() -> None:
    assert len({near_hash(corpus.text(seed, 60)) for seed in range(2000)}) == 2000


def test_a_part_that_is_shared_makes_no_near_text() -> None:
    licence = corpus.text(10**6, 40)  # a fifth of each text
    assert len({near_hash(licence + corpus.text(seed, 160)) for seed in range(200)}) >= 195


def test_the_hashes_are_the_same_on_every_machine_and_day() -> None:
    told = facts(b"The quick brown fox jumps over the lazy dog")
    assert told["near_hash"] == NEAR_HASH
    assert told["content_digest"] == "d7a8fbb307d7809469ca9abcb0082e4f8d5651e46d3cdb762d02d0bf37c9e592"


NEAR_HASH = "15374fc6cfeb7ec1176a87abf4c9d030060897640201c0a2"
