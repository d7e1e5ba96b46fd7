"""What can be said of one text from its bytes alone."""

import hashlib
import re
import unicodedata
import zlib
from collections import Counter
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa

from components.modalities.text import content

FACTS = pa.schema(
    [
        pa.field("digest", pa.string(), nullable=False),  # sha256 of the payload
        pa.field("content_digest", pa.string()),  # sha256 of the text in one form: NFC, \n, no trailing space
        pa.field("decodes", pa.bool_(), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("characters", pa.int64()),
        pa.field("visible", pa.int64()),  # characters that are neither space nor control
        pa.field("lines", pa.int64()),
        pa.field("longest_line", pa.int64()),  # in characters
        pa.field("control_share", pa.float64()),  # of all characters; newlines and tabs are none
        pa.field("replacement_share", pa.float64()),  # of all characters: U+FFFD, which an earlier conversion left
        pa.field("letter_share", pa.float64()),  # of visible characters
        pa.field("script", pa.string()),  # of most letters, by the first word of their Unicode names: LATIN, CJK ...
        pa.field("language", pa.string()),  # ISO 639-1, by py3langid from the first characters; None without letters
        pa.field("profane_share", pa.float64()),  # of words: those on the list of better-profanity
        pa.field("addresses", pa.int64()),  # of e-mail
        pa.field("phones", pa.int64()),  # numbers with a country's code, or as North America writes them
        pa.field("cards", pa.int64()),  # numbers of 13 to 19 digits whose check digit is right
        pa.field("near_hash", pa.string()),
        pa.field("error", pa.string()),  # why it does not decode
    ]
)

MARKS = {b"\xff\xfe\x00\x00": "UTF-32", b"\x00\x00\xfe\xff": "UTF-32", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
SHINGLE = 4  # words
MINIMA = 3
# A word is a run of letters and digits; in scripts without spaces it is one character.
WORD = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\W_]+")


TOLD = 2000  # characters by which a language is told


def facts(payload: bytes) -> dict[str, Any]:
    """One row of `FACTS`; bytes that are not UTF-8 give `decodes` False and the reason, never an exception."""
    known: dict[str, Any] = dict.fromkeys(FACTS.names)
    known |= {"digest": hashlib.sha256(payload).hexdigest(), "decodes": False, "bytes": len(payload)}
    try:
        return known | _of_text(decode(payload))
    except ValueError as error:
        return known | {"error": str(error)}


def content_digest(payload: bytes) -> str | None:
    """The fact of that name alone; None where the bytes are not UTF-8."""
    try:
        return _content(_lines(decode(payload)))
    except ValueError:
        return None


def _lines(text: str) -> list[str]:
    lines = text.split("\n")
    if not lines[-1]:
        lines.pop()  # the last newline ends a line and begins none
    return lines


def _content(lines: list[str]) -> str:
    return hashlib.sha256("\n".join(line.rstrip() for line in lines).rstrip().encode()).hexdigest()


def decode(payload: bytes) -> str:
    """The text of UTF-8 bytes in Unicode's form NFC, its newlines as \\n, without a byte order mark.

    A `ValueError` tells the first byte that is wrong.
    """
    try:
        text = payload.decode("utf-8")
    except UnicodeDecodeError as error:
        mark = next((name for mark, name in MARKS.items() if payload.startswith(mark)), None)
        hint = f"; it begins with the mark of {mark}" if mark else ""
        raise ValueError(
            f"not UTF-8: byte 0x{payload[error.start]:02x} at offset {error.start} ({error.reason}){hint}"
        ) from None
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    return unicodedata.normalize("NFC", text)


def _of_text(text: str) -> dict[str, Any]:
    lines = _lines(text)
    counts = Counter(text)
    kinds = {character: unicodedata.category(character) for character in counts}
    control = sum(n for character, n in counts.items() if kinds[character] == "Cc" and character not in "\n\t")
    visible = sum(n for character, n in counts.items() if kinds[character][0] not in "CZ")
    letters = {character: n for character, n in counts.items() if kinds[character][0] == "L"}
    every = max(len(text), 1)
    return {
        "content_digest": _content(lines),
        "decodes": True,
        "characters": len(text),
        "visible": visible,
        "lines": len(lines),
        "longest_line": max(map(len, lines), default=0),
        "control_share": control / every,
        "replacement_share": counts["\ufffd"] / every,
        "letter_share": sum(letters.values()) / max(visible, 1),
        "script": _script(letters),
        "language": _language(text[:TOLD]) if letters else None,
        "profane_share": content.profane_share(text),
        "addresses": len(content.ADDRESS.findall(text)) if "@" in text else 0,
        "phones": len(content.PHONE.findall(text)),
        "cards": sum(content.is_card(found.group()) for found in content.CARD.finditer(text)),
        "near_hash": near_hash(text),
    }


def _language(text: str) -> str:
    from py3langid.langid import classify

    language: str = classify(text)[0]
    return language


def _script(letters: dict[str, int]) -> str | None:
    """The script of most letters; of two that are even, the later in the alphabet."""
    scripts: Counter[str] = Counter()
    for letter, count in letters.items():
        scripts[_script_of(letter)] += count
    return max(scripts, key=lambda script: (scripts[script], script)) if scripts else None


@lru_cache(maxsize=2**14)
def _script_of(letter: str) -> str:
    words = unicodedata.name(letter, "UNNAMED").split()
    return words[1] if words[0] in ("FULLWIDTH", "HALFWIDTH", "MODIFIER") else words[0]


def near_hash(text: str) -> str | None:
    """48 hex digits, equal for texts with the same words and likely equal for texts with nearly the same; or None.

    Words are compared without case, punctuation, accents or spacing. The hash holds three minima (MinHash,
    Broder 1997) over all runs of four words, so two texts that share a part J of their runs have equal hashes with
    probability J^3: one word changed in a hundred 0.78, ten words 0.1, texts of different words 0. A text of fewer than
    four words is one run; one without any words has no hash.
    """
    plain = unicodedata.normalize("NFKD", text).casefold()
    words = WORD.findall(plain if plain.isascii() else "".join(c for c in plain if not unicodedata.combining(c)))
    if not words:
        return None
    hashes = np.fromiter((zlib.crc32(word.encode()) for word in words), np.uint64, len(words))
    width = min(SHINGLE, len(words))
    runs = np.zeros(len(words) - width + 1, np.uint64)
    for place in range(width):
        runs = _mixed(runs + hashes[place : place + len(runs)])
    minima = [_mixed(runs ^ np.uint64(0x9E3779B97F4A7C15 * (n + 1) % 2**64)).min() for n in range(MINIMA)]
    return "".join(f"{minimum:016x}" for minimum in minima)


def _mixed(values: np.ndarray) -> np.ndarray:
    """A bijection of 64 bits that looks random: the finalizer of SplitMix64 (Steele et al. 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = values ^ (values >> np.uint64(31))
    return mixed
