"""A plan says of each stage what would happen to it, and names what changed."""

from typing import Any

from components.records import Artifact
from flows import explaining
from flows.caching import Key, plain


def key(**asked: Any) -> Key:
    return Key("train", {"asked": plain(asked), "source": {"a.py": "1", "b.py": "1"}, "libraries": {"torch": "2.13"}})


def before(made: Key) -> dict[str, Any]:
    return {"name": made.name, **made.parts}


def test_what_was_never_done_is_said_to_be_new() -> None:
    assert explaining.changes(None, key()) == ("it has not been done here before",)


def test_a_changed_setting_is_named_by_its_place_with_both_values() -> None:
    old = key(**{"candidates.vae": {"train": {"steps": 4000, "seed": 0}}})
    new = key(**{"candidates.vae": {"train": {"steps": 500, "seed": 0}}})
    assert explaining.changes(before(old), new) == ("candidates.vae.train.steps: 4000 became 500",)


def test_a_setting_that_came_or_went_is_named_too() -> None:
    one, other = key(prepare={"size": 28}), key(prepare={"size": 28, "augment": "flip"})
    assert explaining.changes(before(one), other) == ("prepare.augment: is new, flip",)
    assert explaining.changes(before(other), one) == ("prepare.augment: flip is gone",)


def test_an_entry_of_a_list_is_named_by_its_place() -> None:
    old, new = key(gates=[{"metric": "fd", "at_most": 60}]), key(gates=[{"metric": "fd", "at_most": 50}, "another"])
    assert explaining.changes(before(old), new) == (
        "gates.0.at_most: 60 became 50",
        "gates.1: is new, another",
    )


def test_an_input_is_named_by_its_digest() -> None:
    old, new = (key(rows=Artifact(kind="rows", digest=f"sha256:{digit * 64}")) for digit in "12")
    assert explaining.changes(before(old), new) == ("rows: sha256:1111111 became sha256:2222222",)


def test_code_and_libraries_are_named() -> None:
    old, new = key(), key()
    new.parts["source"] = {"a.py": "2", "c.py": "1"}
    new.parts["libraries"] = {"torch": "2.14"}
    assert explaining.changes(before(old), new) == (
        "the code a.py changed",
        "the code b.py is gone",
        "the code c.py is new",
        "the library torch 2.13 became 2.14",
    )


def test_the_same_key_has_no_changes() -> None:
    assert explaining.changes(before(key(rows=[1, 2])), key(rows=[1, 2])) == ()


def test_what_hangs_on_an_unknown_record_is_found_however_deep() -> None:
    unknown = explaining.Unknown("train vae")
    assert explaining.missing([1, unknown.weights, [explaining.Unknown("train gan").digest]]) == [
        "train vae",
        "train gan",
    ]
    assert explaining.missing([1, "two", None]) == []
