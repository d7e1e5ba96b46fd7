"""A text in a few numbers that say nothing of what is written: what monitoring keeps of the samples that are served.

Light enough for the endpoints: `rows.py`, which tells data, needs libraries that they do without.
"""

from collections import Counter

LOOKED_AT = 20_000  # characters
RUN = 3  # words of a run that may come again


def features(payload: bytes) -> dict[str, float]:
    """Of a text in UTF-8, which may be broken.

    `characters`; `words`; `letters`, their share of what is visible; `capitals`, theirs of the letters; `distinct`, the
    share of words that are different ones; `repetition`, the share of runs of three words that came before; `line`, the
    characters of a line.
    """
    whole = payload.decode("utf-8", "replace")
    text = whole[:LOOKED_AT]
    words = text.lower().split()
    visible = sum(map(len, words))
    letters = sum(map(str.isalpha, text))
    runs = list(zip(*(words[start:] for start in range(RUN)), strict=False))
    return {
        "characters": float(len(whole)),
        "words": float(len(words)),
        "letters": letters / max(visible, 1),
        "capitals": sum(map(str.isupper, text)) / max(letters, 1),
        "distinct": len(set(words)) / max(len(words), 1),
        "repetition": 1 - len(Counter(runs)) / len(runs) if runs else 0.0,
        "line": len(text) / (text.count("\n") + 1),
    }
