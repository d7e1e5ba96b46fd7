"""How texts travel: UTF-8."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from components.modalities.text.batch import TextSpec, Tokens

MEDIA_TYPE = "text/plain; charset=utf-8"
SUFFIX = ".txt"


def encode(tokens: "Tokens", spec: "TextSpec") -> list[bytes]:
    """One text per row, up to its `end`; a broken UTF-8 sequence or an unknown character shows as U+FFFD."""
    return [spec.tokenizer.decode(row).encode() for row in tokens.tokens.detach().cpu().numpy()]


def pieces(spec: "TextSpec") -> Callable[[int], str]:
    """The text that each further token of a sample brings, `end` what is left: all of it is what `encode` makes."""
    return spec.tokenizer.pieces()


def judge(payload: bytes, spec: Mapping[str, Any]) -> None:
    """Refuse, by a `ValueError`, what is no UTF-8; a text of any length may come of any `spec`."""
    payload.decode()
