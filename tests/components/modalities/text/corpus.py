"""Made-up texts for tests: words in the proportions of a language, the same for the same seed."""

import random
import string
from functools import cache
from itertools import accumulate


def words(seed: int, count: int) -> list[str]:
    """Words of 5,000, the n-th of them as likely as 1 / n."""
    lexicon, weights = _lexicon()
    return random.Random(seed).choices(lexicon, cum_weights=weights, k=count)


def text(seed: int, count: int = 200) -> str:
    """Sentences of ten words on lines of their own."""
    drawn = words(seed, count)
    return "".join(" ".join(drawn[i : i + 10]).capitalize() + ".\n" for i in range(0, count, 10))


@cache
def _lexicon() -> tuple[list[str], list[float]]:
    """The words, and the sums of their weights."""
    chance = random.Random(0)
    lexicon = ["".join(chance.choices(string.ascii_lowercase, k=chance.randint(1, 9))) for _ in range(5000)]
    return lexicon, list(accumulate(1 / (n + 1) for n in range(len(lexicon))))
