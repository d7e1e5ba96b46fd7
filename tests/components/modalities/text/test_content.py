"""What may not be wanted in texts is found where it stands, and is not sure while it may become another word."""

import pytest

from components.modalities.text import content
from components.moderation import Moderation, Watch

CARD = "4111 1111 1111 1111"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("what a shitty day", [("profanity", "shitty")]),
        ("Assess the class of Scunthorpe", []),
        ("write to ana.b@example.org now", [("personal_data", "ana.b@example.org")]),
        (
            "call +49 30 1234567 or (555) 123-4567",
            [("personal_data", "+49 30 1234567"), ("personal_data", "(555) 123-4567")],
        ),
        (f"pay with {CARD}, please", [("personal_data", CARD)]),
        ("4111 1111 1111 1112 is no card", []),
        ("", []),
    ],
)
def test_each_kind_is_found_where_it_stands(text: str, wanted: list[tuple[str, str]]) -> None:
    assert [(one.kind, text[one.start : one.end]) for one in content.found(text)] == wanted


def test_listed_words_are_whole_in_any_case_and_may_be_several() -> None:
    text = "Project  Zeta is not projectzeta; zeta alone is fine, and c++ too"
    found = content.found(text, {"project zeta", "C++"})
    assert [text[one.start : one.end] for one in found] == ["Project  Zeta", "c++"]


@pytest.mark.parametrize(
    "text", ["a shitty day", "call +49 30 1234567 today", f"{CARD} paid", "to ana@example.org.", "Project Zeta ends"]
)
def test_nothing_of_what_is_found_is_sure_before_it_is_whole(text: str) -> None:
    """Cut anywhere, a text shows nothing of what will be found in it."""
    words = {"project zeta"}
    first = content.found(text, words)[0]
    assert all(content.still_open(text[:end], words) <= first.start for end in range(first.start, first.end))


def test_what_stays_open_is_bounded() -> None:
    assert content.still_open("one two three ", ()) == len("one two three ")
    assert len(text := "1 " * 400) - content.still_open(text) < 64
    assert len(text := "x" * 4000) - content.still_open(text) <= 160


def test_a_policy_counts_blocks_or_leaves_each_kind_and_blocks_its_words() -> None:
    text = "shit, ana@example.org, zeta"
    kinds = [one.kind for one in Watch(Moderation()).found(text)]
    assert kinds == ["profanity", "personal_data"] and Watch(Moderation()).blocked(text) is None
    assert not Watch(Moderation()).blocks
    quiet = Watch(Moderation(profanity="off", personal_data="block"), {"zeta"})
    assert [one.kind for one in quiet.found(text)] == ["personal_data", "words"]
    first = quiet.blocked(text)
    assert first is not None and text[first.start : first.end] == "ana@example.org"
