"""What a batch of texts is, and the facts a network is built around."""

from dataclasses import dataclass

from pydantic import Field
from torch import Tensor

from components.contract import Batch, Spec
from components.modalities.text.tokenizers import Tokenizer


class TextSpec(Spec):
    """Windows of `context` tokens and the one after them; `classes` names the labels, empty where there are none."""

    tokenizer: Tokenizer
    context: int = Field(ge=1)
    classes: tuple[str, ...] = ()

    @property
    def vocabulary(self) -> int:
        """How many tokens there are, special ones too."""
        return self.tokenizer.size


@dataclass(frozen=True, slots=True)
class Tokens(Batch):
    """`tokens` [B, T] int64 ids; `places` [B] int64 or none; `labels` [B] int64 or none.

    A row to train on has T = context + 1: inputs are `tokens[:, :-1]`, targets `tokens[:, 1:]`. Its place is the number
    of its first token in the stream of its side. A row continues another exactly when its place is the other's + T - 1
    (the last token of one is the first of the next), so a family that carries state resets it everywhere else. The
    label is that of the document of the row's first target.

    A prompt or a sample may have any T: its text ends before the first `end` token that is not its first token, and
    `end` fills the rest.
    """

    tokens: Tensor
    places: Tensor | None = None
    labels: Tensor | None = None


SPEC = TextSpec
