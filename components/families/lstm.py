"""A language model of long short-term memory (Hochreiter and Schmidhuber, 1997), weight-tied and regularised.

Layers of LSTM with layer norm between them (arXiv:1607.06450), one matrix for embedding and output (1608.05859),
dropout of what goes up only (1409.2329), forget gates open at first (Jozefowicz et al., 2015), and truncated
back-propagation: each row of a step goes on with the state that it ended with at the step before.
B batch, T tokens, S slots, V vocabulary, W width, L layers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import AdamW, Optimizer

from components import contract
from components.contract import Loss, Phase
from components.decoding import Controls, TextFamily
from components.modalities.text.batch import TextSpec, Tokens

__all__ = ["Config", "Controls", "Model"]


class Config(contract.Config):
    layers: int = Field(2, ge=1)
    width: int = Field(256, ge=1)
    dropout: float = Field(0.1, ge=0, lt=1)  # 1409.2329 has 0.5 for its medium size, which sees its data 39 times
    lr: float = Field(4e-3, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    clip_norm: float = Field(1.0, gt=0)  # without it recurrent gradients explode now and then (arXiv:1211.5063)


class Model(TextFamily[Config]):
    served = ("network",)
    consecutive = True

    def __init__(self, config: Config, spec: TextSpec) -> None:
        super().__init__(config, spec)
        self.network = Network(config, spec)
        self.carried = Carried(config)

    def phases(self) -> tuple[Phase, ...]:
        return (Phase("main", optimizer="main", clip_norm=self.config.clip_norm),)

    def optimizers(self) -> Mapping[str, Optimizer]:
        config = self.config
        return {"main": AdamW(self.network.parameters(), config.lr, (0.9, 0.99), weight_decay=config.weight_decay)}

    def loss(self, phase: str, batch: Tokens, *, step: int, generator: torch.Generator) -> Loss:
        logits_BTV, state = self.network(batch.tokens[:, :-1], self.carried.state(batch))
        self.carried.keep(batch, state)
        loss = F.cross_entropy(logits_BTV.flatten(0, 1), batch.tokens[:, 1:].flatten())
        return Loss(loss, {"loss": loss})

    def nats(self, rows: Tokens, memory: Any = None) -> tuple[Tensor, Any]:
        logits_BTV, memory = self.network(rows.tokens[:, :-1], memory)
        return F.cross_entropy(logits_BTV.float().mT, rows.tokens[:, 1:], reduction="none").sum(dim=1), memory

    def memory(self, slots: int) -> "Memory":
        weight = self.network.embedding.weight
        return Memory(weight.new_zeros(2, self.config.layers, slots, self.config.width))

    def read(self, memory: "Memory", slot: int, tokens_T: Tensor) -> None:
        memory.state_2LSW[:, :, slot] = 0
        if len(tokens_T):
            _, state_2L1W = self.network(tokens_T[None])
            memory.state_2LSW[:, :, slot] = state_2L1W[:, :, 0]

    def advance(self, memory: "Memory", tokens_S: Tensor) -> Tensor:
        logits_S1V, memory.state_2LSW = self.network(tokens_S[:, None], memory.state_2LSW)
        logits_SV: Tensor = logits_S1V[:, 0]
        return logits_SV


@dataclass(slots=True)
class Memory:
    """The hidden and the cell state of every slot."""

    state_2LSW: Tensor


class Network(nn.Module):
    def __init__(self, config: Config, spec: TextSpec) -> None:
        super().__init__()
        width = config.width
        self.embedding = nn.Embedding(spec.vocabulary, width)
        self.layers = nn.ModuleList(nn.LSTM(width, width, batch_first=True) for _ in range(config.layers))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(config.layers))
        self.bias = nn.Parameter(torch.zeros(spec.vocabulary))
        self.dropout = nn.Dropout(config.dropout)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)
        for name, weights in self.layers.named_parameters():
            if name.endswith("bias_hh_l0"):
                nn.init.ones_(weights.data[width : 2 * width])  # the forget gate

    def forward(self, tokens_BT: Tensor, state_2LBW: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The logits [B, T, V] of what follows each token, and the state behind the last."""
        hidden_BTW, states = self.dropout(self.embedding(tokens_BT)), []
        for at, (layer, norm) in enumerate(zip(self.layers, self.norms, strict=True)):
            before = None if state_2LBW is None else (state_2LBW[0, at][None], state_2LBW[1, at][None])
            passed_BTW, (hidden_1BW, cell_1BW) = layer(hidden_BTW, before)
            hidden_BTW = self.dropout(norm(passed_BTW if at == 0 else passed_BTW + hidden_BTW))
            states.append(torch.cat([hidden_1BW, cell_1BW]))
        return F.linear(hidden_BTW, self.embedding.weight, self.bias), torch.stack(states, dim=1)


class Carried(nn.Module):
    """The state that the rows of a step ended with, for those of the next that go on there; part of a checkpoint."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.state_2LBW = torch.empty(2, config.layers, 0, config.width)
        self.next_B = torch.empty(0, dtype=torch.int64)

    def state(self, batch: Tokens) -> Tensor | None:
        """Zero for each row that begins elsewhere than where one ended; None at first."""
        if batch.places is None or self.next_B.shape != batch.places.shape:
            return None
        goes_on_B1 = (batch.places == self.next_B.to(batch.places.device))[:, None]
        return self.state_2LBW.to(batch.places.device) * goes_on_B1

    def keep(self, batch: Tokens, state_2LBW: Tensor) -> None:
        if batch.places is not None:
            self.state_2LBW = state_2LBW.detach().float()
            self.next_B = batch.places + batch.tokens.shape[1] - 1

    def get_extra_state(self) -> Tensor:
        """Both as one tensor [1 + 2 L W, B] of doubles, which hold places exactly."""
        return torch.cat([self.next_B[None].double(), self.state_2LBW.mT.flatten(0, 2).double()])

    def set_extra_state(self, state: Tensor) -> None:
        layers, width = self.state_2LBW.shape[1], self.state_2LBW.shape[3]
        self.next_B = state[0].long()
        self.state_2LBW = state[1:].float().reshape(2, layers, width, -1).mT.contiguous()
