"""Counting keys without a table of objects."""

import random
import tracemalloc
from collections import Counter

from components.sources.repeats import Repeats


def test_they_count_as_a_dictionary_does() -> None:
    draw, repeats, known = random.Random(0), Repeats(), Counter[bytes]()
    for _ in range(200):
        keys = [draw.randrange(5_000).to_bytes(8, "big") for _ in range(draw.randrange(1, 100))]
        expected = []
        for key in keys:
            known[key] += 1
            expected.append(known[key])
        assert repeats.ordinals(keys) == expected


def test_no_keys_are_no_ordinals_and_extreme_ones_are_keys() -> None:
    repeats = Repeats()
    assert repeats.ordinals([]) == []
    assert repeats.named(["a", "b", "a"], [b"\0" * 8, b"\xff" * 8, b"\0" * 8]) == ["a", "b", "a-2"]


def test_many_keys_take_few_bytes_each() -> None:
    draw = random.Random(0)
    tracemalloc.start()
    try:
        repeats = Repeats()
        for _ in range(200):
            repeats.ordinals([draw.randbytes(8) for _ in range(1000)])
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 200_000 * 14
