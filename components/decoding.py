"""Texts written a token at a time, many at once: what the families of text share beside their networks.

S slots, V vocabulary, T tokens.
"""

from abc import abstractmethod
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from pydantic import Field
from torch import Tensor

from components import contract
from components.contract import Batch, Config, Family
from components.errors import AtelierError
from components.modalities.text.batch import TextSpec, Tokens

DRAWN_AT_ONCE = 64  # uniform numbers of a text, from its own seed
SHOWN = 10  # characters that a refusal names


class Controls(contract.Controls):
    """What a text is written from, and how its tokens are chosen."""

    prompt: str = ""  # what it goes on from; of a long one only as much counts as the model can look back on
    max_tokens: int = Field(256, ge=1, le=65_536)
    temperature: float = Field(1.0, ge=0, le=10)  # 0 takes the likeliest token each time
    top_k: int = Field(0, ge=0)  # how many of the likeliest tokens may be chosen; 0: all (arXiv:1805.04833)
    top_p: float = Field(1.0, gt=0, le=1)  # the likeliest tokens that make up this share may be chosen (1904.09751)
    repetition_penalty: float = Field(1.0, ge=1, le=10)  # on tokens that stand there already (1909.05858)


C = TypeVar("C", bound=Config)


class TextFamily(Family[C, Controls, TextSpec, Tokens]):
    """A family that writes one token after another; it brings the networks and what they remember of each text.

    A memory has a slot for each of `rows` texts. In `draw` a text takes the place of one that has ended.
    """

    modality = "text"
    rows = 16
    reach: int | None = None  # tokens that a slot can hold; None where any number is remembered

    @abstractmethod
    def memory(self, slots: int) -> Any:
        """Room for so many texts, on the device of the weights."""

    @abstractmethod
    def read(self, memory: Any, slot: int, tokens_T: Tensor) -> None:
        """Forget what the slot held, and read these tokens into it: 0 to `reach` - 1 of them."""

    @abstractmethod
    def advance(self, memory: Any, tokens_S: Tensor) -> Tensor:
        """Read one more token into every slot; the logits [S, V] of what follows.

        A slot's row depends on what that slot read only, to the byte. Free slots read whatever is there.
        """

    def refuse(self, controls: Controls) -> None:
        tokenizer = self.spec.tokenizer
        try:
            tokens = tokenizer.encode(controls.prompt)
        except ValueError as error:
            raise AtelierError(f"the prompt cannot be read: {error}") from None
        if unknown := [controls.prompt[at] for at, token in enumerate(tokens) if token in tokenizer.unwritable]:
            shown = ", ".join(f"{one!r} (U+{ord(one):04X})" for one in list(dict.fromkeys(unknown))[:SHOWN])
            raise AtelierError(
                f"the prompt holds {len(set(unknown))} characters that the model has never seen: {shown}. Leave them "
                "out, or write them otherwise."
            )

    @torch.inference_mode()
    def sample(self, seeds: Sequence[int], *, controls: Sequence[Controls], conditions: Batch | None = None) -> Tokens:
        """One text per seed, on the CPU, equal to the byte whoever else is written; `end` fills the shorter ones up."""
        self._refuse_unpaired(seeds, controls, conditions)
        return self.draw(seeds, controls, conditions)

    def stepper(self) -> "Decoder":
        return Decoder(self)

    def draw(self, seeds: Sequence[int], controls: Sequence[Controls], conditions: Batch | None) -> Tokens:
        decoder, waiting = Decoder(self), deque(range(len(seeds)))
        written: list[list[int]] = [[] for _ in seeds]
        rows: dict[int, int] = {}  # of the texts in writing, by their slot
        while waiting or rows:
            while waiting and decoder.free:
                row = waiting.popleft()
                rows[decoder.admit(seeds[row], controls[row])] = row
            for slot, token, last in decoder.step():
                written[rows[slot]].append(token)
                if last:
                    del rows[slot]
        longest = max(map(len, written), default=1)
        end = self.spec.tokenizer.end
        return Tokens(torch.tensor([line + [end] * (longest - len(line)) for line in written]))


@dataclass(slots=True)
class _Text:
    """One text in writing."""

    controls: Controls
    generator: torch.Generator
    tokens: list[int]  # `end`, the prompt, and what was written; the last of them is not yet read
    read: int  # tokens that its slot holds
    written: int = 0
    uniforms: list[float] = field(default_factory=list)

    def uniform(self) -> float:
        if not self.uniforms:
            self.uniforms = torch.rand(DRAWN_AT_ONCE, generator=self.generator, dtype=torch.float64).tolist()[::-1]
        return self.uniforms.pop()


class Decoder:
    """Texts in writing, each in a slot of its own: one joins or leaves between any two steps (continuous batching)."""

    def __init__(self, family: TextFamily[Any]) -> None:
        self._family, self._tokenizer = family, family.spec.tokenizer
        self._texts: list[_Text | None] = [None] * family.rows
        self._memory = family.memory(family.rows)
        self._device = next(family.parameters()).device
        slots, size = family.rows, self._tokenizer.size
        self._seen_SV = torch.zeros(slots, size, dtype=torch.bool)
        self._barred_V = torch.zeros(size, dtype=torch.bool)
        self._barred_V[list(self._tokenizer.unwritable)] = True
        self._temperature_S1, self._penalty_S1 = torch.ones(slots, 1), torch.ones(slots, 1)
        self._top_k_S1, self._top_p_S1 = torch.ones(slots, 1).long(), torch.ones(slots, 1).double()

    @property
    def free(self) -> int:
        """Slots without a text."""
        return self._texts.count(None)

    def admit(self, seed: int, controls: Controls) -> int:
        """The slot in which a text is begun; a `ValueError` where none is free."""
        slot = self._texts.index(None)
        tokens = [self._tokenizer.end, *self._tokenizer.encode(controls.prompt).tolist()]
        generator = torch.Generator().manual_seed(seed)
        self._texts[slot] = text = _Text(controls, generator, tokens, read=0)
        self._seen_SV[slot] = False
        self._seen_SV[slot, tokens[1:]] = True
        self._temperature_S1[slot] = controls.temperature or 1.0
        self._penalty_S1[slot] = controls.repetition_penalty
        self._top_k_S1[slot] = 1 if controls.temperature == 0 else controls.top_k or self._tokenizer.size
        self._top_p_S1[slot] = controls.top_p
        self._read(slot, text, self._family.reach)
        return slot

    def evict(self, slot: int) -> None:
        """Free a slot whose text nobody waits for any more."""
        self._texts[slot] = None

    @torch.inference_mode()
    def step(self) -> list[tuple[int, int, bool]]:
        """The next token of every text by its slot, and whether it is the last, which frees the slot."""
        reach = self._family.reach
        for slot, text in enumerate(self._texts):
            if text is not None and reach is not None and text.read == reach:
                self._read(slot, text, -(-reach // 2))  # a full memory begins anew from its later half
        pending_S = torch.tensor([0 if text is None else text.tokens[-1] for text in self._texts])
        logits_SV = self._family.advance(self._memory, pending_S.to(self._device)).float().cpu()
        chosen, written = self._choose(logits_SV).tolist(), []
        for slot, (text, token) in enumerate(zip(self._texts, chosen, strict=True)):
            if text is None:
                continue
            text.tokens.append(token)
            text.read, text.written = text.read + 1, text.written + 1
            self._seen_SV[slot, token] = True
            last = token == self._tokenizer.end or text.written == text.controls.max_tokens
            if last:
                self._texts[slot] = None
            written.append((slot, token, last))
        return written

    @torch.inference_mode()
    def _read(self, slot: int, text: _Text, most: int | None) -> None:
        """Read all tokens but the last, or the latest of them, so that with it at most `most` are read."""
        tokens = text.tokens[:-1] if most is None else text.tokens[-most:-1]
        self._family.read(self._memory, slot, torch.tensor(tokens, dtype=torch.int64, device=self._device))
        text.read = len(tokens)

    def _choose(self, logits_SV: Tensor) -> Tensor:
        """A token of each slot [S], by its own controls and from its own seed."""
        penalised_SV = torch.where(logits_SV > 0, logits_SV / self._penalty_S1, logits_SV * self._penalty_S1)
        logits_SV = torch.where(self._seen_SV, penalised_SV, logits_SV).masked_fill(self._barred_V, -torch.inf)
        fresh_S = torch.tensor([text is not None and not text.written for text in self._texts])
        logits_SV[fresh_S, self._tokenizer.end] = -torch.inf  # no text is empty
        ordered_SV, order_SV = torch.sort(logits_SV / self._temperature_S1, dim=1, descending=True, stable=True)
        share_SV = ordered_SV.double().softmax(dim=1)
        rank_V = torch.arange(share_SV.shape[1])
        kept_SV = (share_SV.cumsum(dim=1) - share_SV < self._top_p_S1) & (rank_V < self._top_k_S1)
        heaped_SV = (share_SV * kept_SV).cumsum(dim=1)
        uniform_S = torch.tensor([0.0 if text is None else text.uniform() for text in self._texts], dtype=torch.float64)
        place_S1 = (heaped_SV <= uniform_S[:, None] * heaped_SV[:, -1:]).sum(dim=1, keepdim=True)
        return order_SV.gather(1, torch.minimum(place_S1, kept_SV.sum(dim=1, keepdim=True) - 1))[:, 0]
