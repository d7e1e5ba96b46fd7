"""How texts travel: UTF-8."""

from components.modalities.text.batch import TextSpec, Tokens

MEDIA_TYPE = "text/plain; charset=utf-8"
SUFFIX = ".txt"


def encode(tokens: Tokens, spec: TextSpec) -> list[bytes]:
    """One text per row, up to its `end`; a broken UTF-8 sequence or an unknown character shows as U+FFFD."""
    return [spec.tokenizer.decode(row).encode() for row in tokens.tokens.detach().cpu().numpy()]
