"""A decoder-only transformer (Radford et al., 2019), with what has proved better since.

Rotary positions (arXiv:2104.09864), RMS norm before each block (1910.07467) and on queries and keys (2302.05442),
squared ReLU (2109.08668), no biases, tied embeddings (1608.05859), and projections that begin at zero, so that each
block begins as the identity. Its loss and optimizer are GPT-3's (2005.14165, appendix B), but for the learning rate.
B batch, T tokens, S slots, V vocabulary, W width, H heads, D width of a head, L layers, R reach.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import AdamW, Optimizer

from components import contract
from components.contract import Loss
from components.decoding import Controls, TextFamily
from components.layers import Product, product
from components.modalities.text.batch import TextSpec, Tokens

__all__ = ["Config", "Controls", "Model"]

PRESETS = {  # layers, heads, width: the last is GPT-2's smallest
    "tiny": (4, 4, 128),
    "small": (6, 6, 384),
    "medium": (8, 8, 512),
    "124M": (12, 12, 768),
}


class Config(contract.Config):
    """The `preset` says what of layers, heads and width is not given."""

    preset: Literal["tiny", "small", "medium", "124M"] = "tiny"
    layers: int = Field(ge=1)
    heads: int = Field(ge=1)
    width: int = Field(ge=4)
    dropout: float = Field(0.0, ge=0, lt=1)
    lr: float = Field(3e-3, gt=0)  # the paper's 6e-4 is for 124M weights; small ones bear more
    beta2: float = Field(0.95, gt=0, lt=1)
    weight_decay: float = Field(0.1, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _of_preset(cls, given: Any) -> Any:
        named = given.get("preset", "tiny") if isinstance(given, dict) else None
        return (
            dict(zip(("layers", "heads", "width"), PRESETS[named], strict=True)) | given if named in PRESETS else given
        )

    @model_validator(mode="after")
    def _whole_heads(self) -> "Config":
        if self.width % (2 * self.heads):
            raise ValueError(f"width {self.width} must be a multiple of twice the heads, {2 * self.heads}")
        return self


class Model(TextFamily[Config]):
    served = ("network",)

    def __init__(self, config: Config, spec: TextSpec) -> None:
        super().__init__(config, spec)
        self.reach = spec.context
        self.network = Transformer(config, spec)

    def optimizers(self) -> Mapping[str, Optimizer]:
        """Weight decay is for matrices only; a gain or a bias has no scale to keep small."""
        config, every = self.config, list(self.network.parameters())
        groups = [
            {"params": [weight for weight in every if weight.ndim >= 2], "weight_decay": config.weight_decay},
            {"params": [weight for weight in every if weight.ndim < 2], "weight_decay": 0.0},
        ]
        return {"main": AdamW([group for group in groups if group["params"]], config.lr, (0.9, config.beta2))}

    def loss(self, phase: str, batch: Tokens, *, step: int, generator: torch.Generator) -> Loss:
        logits_BTV = self.network(batch.tokens[:, :-1])
        loss = F.cross_entropy(logits_BTV.flatten(0, 1), batch.tokens[:, 1:].flatten())
        return Loss(loss, {"loss": loss})

    def nats(self, rows: Tokens, memory: Any = None) -> tuple[Tensor, Any]:
        logits_BTV = self.network(rows.tokens[:, :-1]).float()
        return F.cross_entropy(logits_BTV.mT, rows.tokens[:, 1:], reduction="none").sum(dim=1), None

    def memory(self, slots: int) -> "Past":
        return Past.empty(self.config, self.spec.context, slots, next(self.parameters()))

    def read(self, memory: "Past", slot: int, tokens_T: Tensor) -> None:
        memory.lengths_S[slot] = len(tokens_T)
        if len(tokens_T):
            for layer, (key_HTD, value_HTD) in enumerate(self.network.pasts(tokens_T[None])):
                memory.keys_LSHRD[layer, slot, :, : len(tokens_T)] = key_HTD
                memory.values_LSHRD[layer, slot, :, : len(tokens_T)] = value_HTD

    def advance(self, memory: "Past", tokens_S: Tensor) -> Tensor:
        return self.network.advance(memory, tokens_S)


@dataclass(slots=True)
class Past:
    """The keys and values of every token that a slot holds; behind its length lies what no query sees."""

    keys_LSHRD: Tensor
    values_LSHRD: Tensor
    lengths_S: Tensor

    @classmethod
    def empty(cls, config: Config, reach: int, slots: int, like: Tensor) -> "Past":
        shape = (config.layers, slots, config.heads, reach, config.width // config.heads)
        lengths_S = torch.zeros(slots, dtype=torch.int64, device=like.device)
        return cls(like.new_zeros(shape), like.new_zeros(shape), lengths_S)


class Transformer(nn.Module):
    def __init__(self, config: Config, spec: TextSpec) -> None:
        super().__init__()
        self.embedding = nn.Embedding(spec.vocabulary, config.width)
        self.blocks: Sequence[Block] = nn.ModuleList(Block(config) for _ in range(config.layers))  # type: ignore[assignment]
        self.dropout = nn.Dropout(config.dropout)
        nn.init.normal_(self.embedding.weight, std=0.02)
        angle_TD = rotations(spec.context, config.width // config.heads)
        self.cos_TD: Tensor
        self.sin_TD: Tensor
        self.register_buffer("cos_TD", angle_TD.cos(), persistent=False)
        self.register_buffer("sin_TD", angle_TD.sin(), persistent=False)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """The logits [B, T, V] of what follows each token."""
        length = tokens_BT.shape[1]
        hidden_BTW = self.dropout(norm(self.embedding(tokens_BT)))
        for block in self.blocks:
            hidden_BTW = block(hidden_BTW, self.cos_TD[:length], self.sin_TD[:length])
        return self._logits(hidden_BTW)

    def pasts(self, tokens_BT: Tensor) -> list[tuple[Tensor, Tensor]]:
        """The keys and values [H, T, D] of the first row at each layer."""
        kept: list[tuple[Tensor, Tensor]] = []
        length, hidden_BTW = tokens_BT.shape[1], norm(self.embedding(tokens_BT))
        for block in self.blocks:
            hidden_BTW = block(hidden_BTW, self.cos_TD[:length], self.sin_TD[:length], kept)
        return kept

    def advance(self, past: Past, tokens_S: Tensor) -> Tensor:
        """The logits [S, V] behind one more token of each slot, whose keys and values are kept."""
        hidden_SW = norm(self.embedding(tokens_S))
        at_S = past.lengths_S
        cos_S1D, sin_S1D = self.cos_TD[at_S][:, None], self.sin_TD[at_S][:, None]
        slots_S = torch.arange(len(tokens_S), device=tokens_S.device)
        seen_S11R = (torch.arange(past.keys_LSHRD.shape[3], device=tokens_S.device) <= at_S[:, None])[:, None, None]
        for layer, block in enumerate(self.blocks):
            keys_SHRD, values_SHRD = past.keys_LSHRD[layer], past.values_LSHRD[layer]
            hidden_SW = block.advance(hidden_SW, cos_S1D, sin_S1D, slots_S, at_S, seen_S11R, keys_SHRD, values_SHRD)
        past.lengths_S = (at_S + 1).clamp(max=past.keys_LSHRD.shape[3] - 1)  # of a slot without a text: stay inside
        return self._logits(hidden_SW)

    def _logits(self, hidden: Tensor) -> Tensor:
        return product(norm(hidden), self.embedding.weight)


class Block(nn.Module):
    """Attention and a layer of four times the width, each added to what comes in."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width = config.width
        self.heads, self.share = config.heads, config.dropout
        self.attend, self.joined = Product(width, 3 * width), Product(width, width)
        self.wide, self.narrow = Product(width, 4 * width), Product(4 * width, width)
        self.dropout = nn.Dropout(config.dropout)
        nn.init.normal_(self.attend.weight, std=width**-0.5)
        nn.init.normal_(self.wide.weight, std=width**-0.5)
        nn.init.zeros_(self.joined.weight)
        nn.init.zeros_(self.narrow.weight)

    def forward(
        self, hidden_BTW: Tensor, cos_TD: Tensor, sin_TD: Tensor, kept: list[tuple[Tensor, Tensor]] | None = None
    ) -> Tensor:
        every_BHTD = self.attend(norm(hidden_BTW)).unflatten(-1, (3 * self.heads, -1)).transpose(1, 2)
        asked_BHTD, value = every_BHTD.tensor_split([2 * self.heads], dim=1)
        query, key = turned(norm(asked_BHTD), cos_TD, sin_TD).chunk(2, dim=1)  # each [B, H, T, D]
        if kept is not None:
            kept.append((key[0], value[0]))
        share = self.share if self.training else 0.0
        mixed_BHTD = F.scaled_dot_product_attention(query, key, value, dropout_p=share, is_causal=True)
        hidden_BTW = hidden_BTW + self.dropout(self.joined(mixed_BHTD.transpose(1, 2).flatten(2)))
        widened_BTW: Tensor = self.dropout(self._widened(hidden_BTW))
        return hidden_BTW + widened_BTW

    def advance(
        self, hidden_SW: Tensor, cos_S1D: Tensor, sin_S1D: Tensor, slots_S: Tensor, at_S: Tensor, seen_S11R: Tensor,
        keys_SHRD: Tensor, values_SHRD: Tensor,
    ) -> Tensor:  # fmt: skip
        query, key, value = self.attend(norm(hidden_SW)).unflatten(-1, (3, self.heads, -1)).unbind(1)  # each [S, H, D]
        query, key = turned(norm(query), cos_S1D, sin_S1D), turned(norm(key), cos_S1D, sin_S1D)
        keys_SHRD[slots_S, :, at_S], values_SHRD[slots_S, :, at_S] = key, value
        mixed_SH1D = F.scaled_dot_product_attention(query[:, :, None], keys_SHRD, values_SHRD, attn_mask=seen_S11R)
        hidden_SW = hidden_SW + self.joined(mixed_SH1D.flatten(1))
        return hidden_SW + self._widened(hidden_SW)

    def _widened(self, hidden: Tensor) -> Tensor:
        narrowed: Tensor = self.narrow(SquaredRelu.apply(self.wide(norm(hidden))))  # type: ignore[no-untyped-call]
        return narrowed


class SquaredRelu(torch.autograd.Function):
    """max(x, 0) squared. Its slope is twice the root, which is kept: autograd by itself takes twice as long."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        root = F.relu(values)
        ctx.save_for_backward(root)
        return root.square()

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Tensor:
        (root,) = ctx.saved_tensors
        slope: Tensor = slopes[0] * root
        return slope.mul_(2)


def norm(values: Tensor) -> Tensor:
    """Scaled to a root mean square of 1 along the last axis."""
    return F.rms_norm(values, values.shape[-1:])


def rotations(length: int, size: int) -> Tensor:
    """The angle [T, D / 2] by which each pair of a head is turned at each place, eq. 15."""
    rate_D = 10_000.0 ** (-torch.arange(0, size, 2) / size)
    return torch.arange(length)[:, None] * rate_D


def turned(values: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Each pair, one of its first half and one of its second, turned by its angle."""
    one, other = values.chunk(2, dim=-1)
    return torch.cat([one * cos - other * sin, one * sin + other * cos], dim=-1)
