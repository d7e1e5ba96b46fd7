"""What in a text may not be wanted: profane words, personal data, and words of somebody's list."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

PLAIN = re.compile(r"[^\W\d_]+")
ADDRESS = re.compile(r"[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}")
PHONE = re.compile(
    r"(?<![\w+])(?:\+\d{1,3}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d(?:[ .-]?\d){6,11}|\(?\d{3}\)?[ .-]\d{3}[.-]\d{4})(?!\w)"
)
CARD = re.compile(r"(?<!\d)(?<!\d[.-])\d(?:[ -]?\d){12,18}(?![.-]?\d)")
OPEN = re.compile(r"(?:[+(]?\d[\d ().-]{0,40})?\S{0,160}$")  # what the next characters may make one of these
TOKEN = re.compile(r"\S+")


@dataclass(frozen=True, slots=True)
class Found:
    """One of them, and where it begins and ends in characters."""

    kind: str  # profanity, personal_data or words
    start: int
    end: int


def found(text: str, words: Collection[str] = ()) -> list[Found]:
    """All of them in order; `words` are compared without case, whole words only, and may be several in a row."""
    profane = profanities()
    every = [
        *(Found("profanity", one.start(), one.end()) for one in PLAIN.finditer(text) if one.group().lower() in profane),
        *(Found("personal_data", *one.span()) for one in ADDRESS.finditer(text)),
        *(Found("personal_data", *one.span()) for one in PHONE.finditer(text)),
        *(Found("personal_data", *one.span()) for one in CARD.finditer(text) if is_card(one.group())),
    ]
    if words:
        every += [Found("words", *one.span()) for one in _listed(tuple(sorted(words))).finditer(text)]
    return sorted(every, key=lambda one: (one.start, one.end))


def still_open(text: str, words: Collection[str] = ()) -> int:
    """Where in a text begins what more characters may yet turn into one of them; its length where nothing may."""
    match = OPEN.search(text)
    start = len(text) if match is None else match.start()
    if before := max((len(word.split()) for word in words), default=1) - 1:
        tokens = [token.start() for token in TOKEN.finditer(text[:start])]
        start = min([start, *tokens[-before:]])
    return start


def profane_share(text: str) -> float:
    """The share of words on the list of better-profanity."""
    words = PLAIN.findall(text.lower())
    profane = profanities()
    return sum(word in profane for word in words) / max(len(words), 1)


@lru_cache(maxsize=1)
def profanities() -> frozenset[str]:
    listed = resources.files("better_profanity").joinpath("profanity_wordlist.txt").read_text("utf-8")
    return frozenset(line.strip().lower() for line in listed.splitlines())


def is_card(number: str) -> bool:
    """Whether the last digit of a number is the check digit of the others (Luhn, US patent 2,950,048)."""
    digits = [int(digit) for digit in number if digit.isdigit()][::-1]
    doubled = (sum(divmod(2 * digit, 10)) for digit in digits[1::2])
    return (sum(digits[::2]) + sum(doubled)) % 10 == 0 and len(set(digits)) > 1


@lru_cache(maxsize=256)
def _listed(words: tuple[str, ...]) -> re.Pattern[str]:
    named = "|".join(r"\s+".join(map(re.escape, word.split())) for word in words)
    return re.compile(rf"(?<!\w)(?:{named})(?!\w)", re.IGNORECASE)
