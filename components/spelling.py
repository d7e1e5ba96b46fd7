"""How an unknown word is answered: with the word, the nearest known one, and the choices."""

import difflib
from collections.abc import Iterable


def unknown(kind: str, word: str, known: Iterable[str]) -> str:
    """One sentence: `unknown family 'vea'; did you mean 'vae'? known: dcgan, vae`."""
    choices = sorted(known)
    near = difflib.get_close_matches(word, choices, n=1)
    hint = f" did you mean {near[0]!r}?" if near else ""
    return f"unknown {kind} {word!r};{hint} known: {', '.join(choices)}"
