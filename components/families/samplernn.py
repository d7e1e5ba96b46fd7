"""Raw sound by recurrent tiers, each faster than the one above (Mehri et al., 2017, arXiv:1612.07837).

Three tiers: gated recurrent units over frames of 16 and of 4 samples, and a perceptron over single ones; each tier
speaks to the one below through a learnt upsampling (section 2.1), the first state is learnt, and truncated
back-propagation carries states from one window to the next (2.3). Frames of 8 and 2 in the paper: twice the steps.
B batch, T samples, F frames, W width, V classes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam, Optimizer

from components import contract
from components.contract import Loss, Phase
from components.errors import AtelierError
from components.loops import tiered
from components.modalities.audio.batch import AudioSpec, Waves
from components.waveforms import CLASSES, SILENCE, Controls, SoundFamily, array, decoded, encoded, real

__all__ = ["Config", "Controls", "Model"]


class Config(contract.Config):
    width: int = Field(128, ge=1)
    near: int = Field(4, ge=1)  # samples of a frame of the lower recurrent tier
    frames: int = Field(4, ge=1)  # of the lower tier in one of the upper
    lr: float = Field(2e-3, gt=0)
    clip_norm: float = Field(1.0, gt=0)


class Model(SoundFamily[Config, Controls]):
    served = ("network",)
    consecutive = True

    def __init__(self, config: Config, spec: AudioSpec) -> None:
        super().__init__(config, spec)
        if spec.length % (far := config.near * config.frames):
            raise AtelierError(
                f"samplernn goes by frames of {far} samples, and windows of {spec.length} are no whole number of them. "
                f"Set `prepare.seconds` to {max(1, round(spec.length / far)) * far / spec.rate:g}."
            )
        self.network = Network(config)
        self.carried = Carried(config)

    def phases(self) -> Sequence[Phase]:
        return (Phase("main", optimizer="main", clip_norm=self.config.clip_norm),)

    def optimizers(self) -> Mapping[str, Optimizer]:
        return {"main": Adam(self.network.parameters(), self.config.lr)}

    def loss(self, phase: str, batch: Waves, *, step: int, generator: torch.Generator) -> Loss:
        classes_BT, real_BT = encoded(batch.samples), real(batch)
        past_BA, states_2BW = self.carried.begun(batch, self.network)
        logits_BTV, states_2BW = self.network(torch.cat([past_BA, classes_BT], dim=1), states_2BW)
        self.carried.keep(batch, classes_BT[:, -past_BA.shape[1] :], states_2BW)
        lost_BT = F.cross_entropy(logits_BTV.mT, classes_BT, reduction="none")
        loss = (lost_BT * real_BT).sum() / real_BT.sum()
        return Loss(loss, {"loss": loss})

    def nats(self, rows: Waves, memory: Any = None) -> tuple[Tensor, Any]:
        classes_BT, memory = encoded(rows.samples), Carried(self.config) if memory is None else memory
        past_BA, states_2BW = memory.begun(rows, self.network)
        logits_BTV, states_2BW = self.network(torch.cat([past_BA, classes_BT], dim=1), states_2BW)
        memory.keep(rows, classes_BT[:, -past_BA.shape[1] :], states_2BW)
        lost_BT = F.cross_entropy(logits_BTV.float().mT, classes_BT, reduction="none")
        return (lost_BT * real(rows)).sum(dim=1), memory

    def write(self, uniforms_NT: np.ndarray, temperatures_N: np.ndarray, controls: Sequence[Controls]) -> np.ndarray:
        return tiered.write(self.network.plan(), uniforms_NT, temperatures_N, first=SILENCE)


class Tier(nn.Module):
    """A recurrent tier: from its frames, and what the tier above says, to what it says to each step of that below."""

    def __init__(self, samples: int, width: int, below: int) -> None:
        super().__init__()
        self.width = width
        self.frame = nn.Linear(samples, width)
        self.recurrent = nn.GRU(width, width, batch_first=True)
        self.up = nn.Linear(width, below * width)
        self.state = nn.Parameter(torch.zeros(width))

    def forward(self, frames_BFA: Tensor, told_BFW: Tensor | None, state_BW: Tensor) -> tuple[Tensor, Tensor]:
        entered_BFW = self.frame(frames_BFA)
        if told_BFW is not None:
            entered_BFW = entered_BFW + told_BFW
        passed_BFW, state_1BW = self.recurrent(entered_BFW, state_BW[None])
        return self.up(passed_BFW).unflatten(2, (-1, self.width)).flatten(1, 2), state_1BW[0]

    def plan(self) -> tiered.Tier:
        """The weights as the compiled loop takes them."""
        gru = self.recurrent
        return tiered.Tier(
            frame_AW=array(self.frame.weight.T), frame_bias_W=array(self.frame.bias),
            input_WG=array(gru.weight_ih_l0.T), input_bias_G=array(gru.bias_ih_l0),
            hidden_WG=array(gru.weight_hh_l0.T), hidden_bias_G=array(gru.bias_hh_l0),
            up_WX=array(self.up.weight.T), up_bias_X=array(self.up.bias), state_W=array(self.state),
        )  # fmt: skip


class Network(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        width, self.near, self.far = config.width, config.near, config.near * config.frames
        self.upper = Tier(self.far, width, config.frames)
        self.lower = Tier(self.near, width, self.near)
        self.heard = nn.ModuleList(nn.Embedding(CLASSES, width) for _ in range(self.near))
        self.first, self.last = nn.Linear(width, width), nn.Linear(width, CLASSES)
        for weights in self.heard.parameters():
            nn.init.normal_(weights, std=width**-0.5)

    def forward(self, classes_BT: Tensor, states_2BW: Tensor) -> tuple[Tensor, Tensor]:
        """The logits [B, T, V] of all classes but the first frame's, which stands before them, and the last states."""
        length = classes_BT.shape[1] - self.far
        levels_BT = decoded(classes_BT)
        far_BFA = levels_BT[:, :length].reshape(len(levels_BT), -1, self.far)
        near_BFA = levels_BT[:, self.far - self.near : -self.near].reshape(len(levels_BT), -1, self.near)
        told_BFW, upper_BW = self.upper(far_BFA, None, states_2BW[0])
        told_BTW, lower_BW = self.lower(near_BFA, told_BFW, states_2BW[1])
        start = self.far - self.near
        for at, embedding in enumerate(self.heard):
            told_BTW = told_BTW + embedding(classes_BT[:, start + at : start + at + length])
        logits_BTV: Tensor = self.last(F.relu(self.first(F.relu(told_BTW))))
        return logits_BTV, torch.stack([upper_BW, lower_BW])

    def first_states(self, rows: int) -> Tensor:
        """The learnt states [2, B, W] of both recurrent tiers."""
        return torch.stack([self.upper.state, self.lower.state])[:, None].expand(-1, rows, -1)

    def plan(self) -> tiered.Plan:
        """The weights as the compiled loop takes them."""
        return tiered.Plan(
            upper=self.upper.plan(), lower=self.lower.plan(),
            heard_BVW=array(torch.stack(list(self.heard.parameters()))),
            first_WW=array(self.first.weight.T), first_bias_W=array(self.first.bias),
            last_WV=array(self.last.weight.T), last_bias_V=array(self.last.bias),
            levels_V=array(decoded(torch.arange(CLASSES))),
        )  # fmt: skip


class Carried(nn.Module):
    """The states and the last frame that the rows of a step ended with, for those that go on; part of a checkpoint."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.past_BA = torch.empty(0, config.near * config.frames, dtype=torch.int64)
        self.states_2BW = torch.empty(2, 0, config.width)
        self.next_B = torch.empty(0, dtype=torch.int64)

    def begun(self, rows: Waves, network: Network) -> tuple[Tensor, Tensor]:
        """The frame [B, A] before each row and the states [2, B, W]: silence and the learnt ones where none goes on."""
        past_BA = torch.full((len(rows), network.far), SILENCE, device=rows.samples.device)
        states_2BW = network.first_states(len(rows))
        if rows.places is None or self.next_B.shape != rows.places.shape:
            return past_BA, states_2BW
        goes_on_B1 = (self.next_B.to(rows.places.device) == rows.places)[:, None]
        kept_BA, kept_2BW = self.past_BA.to(past_BA.device), self.states_2BW.to(states_2BW)
        return torch.where(goes_on_B1, kept_BA, past_BA), torch.where(goes_on_B1, kept_2BW, states_2BW)

    def keep(self, rows: Waves, past_BA: Tensor, states_2BW: Tensor) -> None:
        """Rows that end early are the last of their sounds: none goes on there."""
        if rows.places is not None:
            self.past_BA, self.states_2BW = past_BA, states_2BW.detach().float()
            whole_B = rows.lengths == rows.samples.shape[1]
            self.next_B = torch.where(whole_B, rows.places + rows.lengths, -1)

    def get_extra_state(self) -> Tensor:
        """All as one tensor [1 + A + 2 W, B] of doubles, which hold places exactly."""
        return torch.cat([self.next_B[None], self.past_BA.T, self.states_2BW.mT.flatten(0, 1)]).double()

    def set_extra_state(self, state: Tensor) -> None:
        far, width = self.past_BA.shape[1], self.states_2BW.shape[2]
        self.next_B, self.past_BA = state[0].long(), state[1 : 1 + far].long().T.contiguous()
        self.states_2BW = state[1 + far :].float().reshape(2, width, -1).mT.contiguous()
