"""Raw sound by dilated causal convolutions (van den Oord et al., 2016, arXiv:1609.03499).

Gated units (eq. 2), residual and skipped channels (section 2.4), 256 classes by mu-law (section 2.2), conditions added
inside the gates (section 2.5): a label, and characters where they are spoken (`components/alignment.py`). Widths are a
sixteenth of what trained for days on many GPUs; Adam as in Parallel WaveNet (arXiv:1711.10433), which also serves an
average of the weights. Sampling keeps what each layer saw (Le Paine et al., 2016, arXiv:1611.09482).
B batch, T samples, F frames, L layers, R channels, S skipped channels, V classes, C channels of conditions.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam, Optimizer

from components import contract, waveforms
from components.alignment import FRAME, Conditions
from components.contract import Loss, Phase
from components.errors import AtelierError
from components.layers import average_into
from components.loops import convolved
from components.modalities.audio.batch import PAD, AudioSpec, Waves, plain
from components.spelling import unknown
from components.waveforms import CLASSES, SILENCE, SoundFamily, array, before, encoded, real

ANY = "any"
SHOWN = 10  # characters that a refusal names


class Config(contract.Config):
    stacks: int = Field(2, ge=1)
    layers: int = Field(9, ge=1, le=14)  # of a stack, each of twice the dilation of the one before, from 1 on
    width: int = Field(32, ge=1)
    skipped: int = Field(64, ge=1)
    speaks: bool = False  # what it is given, with `text` as a control
    conditional: bool = False  # on the label, with `label` as a control
    told: int = Field(64, ge=1)  # channels of conditions
    dropped: float = Field(0.1, ge=0, lt=1)  # share of rows that are trained without their conditions
    segment: int = Field(4000, ge=1)  # samples of a window that a step is about, behind all that they are made from
    average_decay: float = Field(0.995, ge=0, lt=1)  # short runs: the paper's 0.9999 would still hold the first steps
    lr: float = Field(2e-3, gt=0)


class Controls(waveforms.Controls):
    text: str = ""  # what is to be said; `seconds` are at most then
    label: str = ANY  # the name of a class


class Model(SoundFamily[Config, Controls]):
    served = ("average",)

    def __init__(self, config: Config, spec: AudioSpec) -> None:
        super().__init__(config, spec)
        if config.speaks and not spec.text:
            raise AtelierError(
                "wavenet is asked for `speaks: true`, but no transcripts are prepared. Set `prepare.text` to the bytes "
                "of the longest, or `speaks: false`."
            )
        if config.conditional and not spec.classes:
            raise AtelierError(
                "wavenet is asked for `conditional: true`, but the data have no classes. Set `conditional: false`, or "
                "give the rows labels."
            )
        self.network = Network(config, spec)
        self.average = copy.deepcopy(self.network).requires_grad_(False)
        self.hop = max(1, round(FRAME * spec.rate))
        self.context = -(-self.network.reach // self.hop) * self.hop  # all that a sample sees, in whole frames

    def phases(self) -> Sequence[Phase]:
        return (Phase("main", optimizer="main", clip_norm=1.0),)

    def optimizers(self) -> Mapping[str, Optimizer]:
        return {"main": Adam(self.network.parameters(), self.config.lr)}

    def loss(self, phase: str, batch: Waves, *, step: int, generator: torch.Generator) -> Loss:
        kept_B = torch.rand(len(batch), generator=generator, device=generator.device) >= self.config.dropped
        told_BFC, parts = self._told(batch, kept_B.to(batch.samples.device)), {}
        classes_BT, real_BT, told_BFC = self._segment(batch, told_BFC, generator)
        logits_BVT = self.network(before(classes_BT), told_BFC, self.hop)[:, :, self.context :]
        lost_BT = F.cross_entropy(logits_BVT, classes_BT[:, self.context :], reduction="none")
        loss = parts["loss"] = (lost_BT * real_BT).sum() / real_BT.sum()
        if self.config.speaks and batch.text is not None:
            parts["length"] = self._misjudged(batch, batch.text)
            loss = loss + parts["length"]
        return Loss(loss, parts)

    def _told(self, rows: Waves, kept_B: Tensor) -> Tensor | None:
        """The conditions [B, F, C] of rows, unknown where they are not kept."""
        conditions = self.network.conditions
        if conditions is None:
            return None
        text_BL, labels_B = rows.text, rows.labels
        if conditions.reads and text_BL is not None:
            text_BL = torch.where(kept_B[:, None], text_BL, PAD)
        if conditions.labels is not None and labels_B is not None:
            labels_B = torch.where(kept_B, labels_B, conditions.labels.num_embeddings - 1)
        frames = -(-rows.samples.shape[1] // self.hop)
        told_BFC: Tensor = conditions(text_BL, labels_B, rows.lengths / self.hop, frames)
        return told_BFC

    def _segment(
        self, rows: Waves, told_BFC: Tensor | None, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """A part of each row behind its context: its classes, which of them are real, and its conditions."""
        whole = rows.samples.shape[1]
        frames = -(-min(self.config.segment, whole) // self.hop)
        most_B = ((rows.lengths // self.hop - frames).clamp(min=0) + 1).cpu()
        chance_B = torch.rand(len(rows), generator=generator, device=generator.device).cpu()
        first_B1 = (chance_B * most_B).long()[:, None].to(rows.samples.device)  # in frames
        room = frames * self.hop
        classes_BT = F.pad(encoded(rows.samples), (self.context, room), value=SILENCE)
        places_BT = first_B1 * self.hop + torch.arange(self.context + room, device=first_B1.device)
        real_BT = F.pad(real(rows), (0, room)).gather(1, places_BT[:, :room])
        if told_BFC is not None:
            at_F = torch.arange(self.context // self.hop + frames, device=first_B1.device)
            at_BF = (first_B1 + at_F - self.context // self.hop).clamp(0, told_BFC.shape[1] - 1)
            told_BFC = told_BFC.gather(1, at_BF[:, :, None].expand(-1, -1, told_BFC.shape[2]))
        return classes_BT.gather(1, places_BT), real_BT, told_BFC

    def _misjudged(self, rows: Waves, text_BL: Tensor) -> Tensor:
        """How far the foretold lengths of known texts are from the true ones, as a squared logarithm."""
        assert self.network.conditions is not None
        known_B = (text_BL != PAD).any(dim=1)
        foretold_B = self.network.conditions.lengths(text_BL).clamp(min=1e-3)
        off_B = torch.log(foretold_B * self.hop / rows.lengths).square()
        return (off_B * known_B).sum() / known_B.sum().clamp(min=1)

    def after_step(self, step: int) -> None:
        average_into(self.average, self.network, decay=min(self.config.average_decay, (1 + step) / (10 + step)))

    def nats(self, rows: Waves, memory: Any = None) -> tuple[Tensor, Any]:
        """A row that goes on where one of the call before ended is foretold from all that the network sees of it.

        A model that speaks is told the length of what is said, with the text.
        """
        classes_BT = encoded(rows.samples)
        past_BP = classes_BT.new_full((len(rows), self.context), SILENCE)
        if memory is not None and rows.places is not None and len(memory[1]) == len(rows):
            past_BP = torch.where((memory[1] == rows.places)[:, None], memory[0], past_BP)
        seen_BT, told_BFC = torch.cat([past_BP, classes_BT], dim=1), None
        if (conditions := self.average.conditions) is not None:
            frames = -(-classes_BT.shape[1] // self.hop)
            told_BFC = conditions(rows.text, rows.labels, rows.lengths / self.hop, frames)
            told_BFC = torch.cat([told_BFC[:, :1].expand(-1, self.context // self.hop, -1), told_BFC], dim=1)
        logits_BVT = self.average(before(seen_BT), told_BFC, self.hop)[:, :, self.context :]
        lost_BT = F.cross_entropy(logits_BVT, classes_BT, reduction="none")
        places_B = rows.lengths.new_full((len(rows),), -1) if rows.places is None else rows.places + rows.lengths
        return (lost_BT * real(rows)).sum(dim=1), (seen_BT[:, -self.context :], places_B)

    def refuse(self, controls: Controls) -> None:
        if controls.label != ANY and not self.config.conditional:
            raise AtelierError(f"the control label is {controls.label!r}, but this wavenet knows no classes")
        if controls.label not in (ANY, *self.spec.classes):
            raise AtelierError(f"the control label: {unknown('class', controls.label, [ANY, *self.spec.classes])}")
        if controls.text and not self.config.speaks:
            raise AtelierError("the control text says something, but this wavenet speaks no text that it is given")
        if controls.text:
            self._refuse_text(controls.text)

    def _refuse_text(self, text: str) -> None:
        try:
            said = text.encode()
        except UnicodeEncodeError as error:
            raise AtelierError(f"the text cannot be read: {error}") from None
        if len(said) > self.spec.text:
            raise AtelierError(
                f"the text has {len(said)} bytes, and this model speaks at most {self.spec.text} at once"
            )
        unheard = [one for one in dict.fromkeys(text) if plain(one) not in self.spec.characters]
        if unheard:
            shown = ", ".join(f"{one!r} (U+{ord(one):04X})" for one in unheard[:SHOWN])
            raise AtelierError(
                f"the text holds {len(unheard)} characters that the model has never heard spoken: {shown}. Leave them "
                "out, or write them as words."
            )

    def lengths(self, controls: Sequence[Controls]) -> list[int]:
        most = super().lengths(controls)
        return [
            min(length, max(1, round(float(self._lasts(control.text)))) * self.hop) if control.text else length
            for length, control in zip(most, controls, strict=True)
        ]

    def _lasts(self, text: str) -> Tensor:
        """How many frames a text takes."""
        assert self.average.conditions is not None
        device = self.average.embedding.weight.device
        return self.average.conditions.lengths(_bytes(text)[None].to(device))[0]

    def write(self, uniforms_NT: np.ndarray, temperatures_N: np.ndarray, controls: Sequence[Controls]) -> np.ndarray:
        rows = [self._bias(control) for control in controls]
        frames = max(map(len, rows))
        bias_NFLR = np.stack([np.pad(row, ((0, frames - len(row)), (0, 0), (0, 0)), mode="edge") for row in rows])
        return convolved.write(self.average.plan(), bias_NFLR, uniforms_NT, temperatures_N, hop=self.hop, first=SILENCE)

    def _bias(self, control: Controls) -> np.ndarray:
        """What is added in the gates of each layer in each frame of one sound [F, L, 2 R], from its controls alone."""
        network, told_1FC = self.average, None
        if (conditions := network.conditions) is not None:
            device = network.embedding.weight.device
            classes = list(self.spec.classes)
            labels = [classes.index(control.label)] if control.label != ANY else None
            labels_1 = None if labels is None else torch.tensor(labels, device=device)
            lasting, text_1L = torch.ones(1, device=device), None
            if control.text:
                lasting, text_1L = self._lasts(control.text)[None], _bytes(control.text)[None].to(device)
            told_1FC = conditions(text_1L, labels_1, lasting, max(1, round(float(lasting))))
        return array(network.bias(told_1FC)[0])


class Network(nn.Module):
    """Logits [B, V, T] of each sample's class from those before it."""

    def __init__(self, config: Config, spec: AudioSpec) -> None:
        super().__init__()
        width, skipped = config.width, config.skipped
        self.dilations = [2**layer for _ in range(config.stacks) for layer in range(config.layers)]
        self.reach = sum(self.dilations) + 1  # samples that one sees
        self.width = width
        self.embedding = nn.Embedding(CLASSES, width)
        self.gates = nn.ModuleList(nn.Conv1d(width, 2 * width, 2, dilation=dilation) for dilation in self.dilations)
        self.outs = nn.ModuleList(nn.Conv1d(width, width + skipped, 1) for _ in self.dilations)
        self.head = nn.Sequential(nn.ReLU(), nn.Conv1d(skipped, skipped, 1), nn.ReLU(), nn.Conv1d(skipped, CLASSES, 1))
        self.conditions = None
        if config.speaks or config.conditional:
            classes = len(spec.classes) if config.conditional else 0
            self.conditions = Conditions(config.told, classes=classes, reads=config.speaks)
            self.telling = nn.Linear(config.told, 2 * width * len(self.dilations), bias=False)

    def forward(self, classes_BT: Tensor, told_BFC: Tensor | None = None, hop: int = 1) -> Tensor:
        """What is told of a frame is for its `hop` samples."""
        hidden_BRT, skips = self.embedding(classes_BT).mT, 0
        if told_BFC is not None:
            told_BFLR = self.telling(told_BFC).unflatten(2, (len(self.dilations), -1))
        for layer, (gate, out, dilation) in enumerate(zip(self.gates, self.outs, self.dilations, strict=True)):
            gated_BRT = gate(F.pad(hidden_BRT, (dilation, 0)))
            if told_BFC is not None:
                gated_BRT = (
                    gated_BRT + told_BFLR[:, :, layer].mT.repeat_interleave(hop, dim=2)[:, :, : gated_BRT.shape[2]]
                )
            filtered, opened = gated_BRT.chunk(2, dim=1)
            added, skip = out(filtered.tanh() * opened.sigmoid()).tensor_split([self.width], dim=1)
            hidden_BRT, skips = hidden_BRT + added, skips + skip
        logits_BVT: Tensor = self.head(skips)
        return logits_BVT

    def bias(self, told_BFC: Tensor | None) -> Tensor:
        """What is added in each layer's gates in each frame [B, F, L, 2 R]; one frame where nothing is told."""
        gates: list[Any] = list(self.gates)
        own_LR = torch.stack([gate.bias for gate in gates])
        if told_BFC is None:
            return own_LR[None, None]
        told_BFLR: Tensor = self.telling(told_BFC).unflatten(2, (len(self.dilations), -1))
        return own_LR + told_BFLR

    def plan(self) -> convolved.Plan:
        """The weights as the compiled loop takes them."""
        layers: list[Any] = list(self.gates)
        outs: list[Any] = list(self.outs)
        head: list[Any] = list(self.head)
        gates, first, last = [layer.weight for layer in layers], head[1], head[3]  # gates [2 R, R, 2]: before, now
        return convolved.Plan(
            embedding_VR=array(self.embedding.weight),
            now_LRR=array(torch.stack([weight[:, :, 1].T for weight in gates])),
            past_LRR=array(torch.stack([weight[:, :, 0].T for weight in gates])),
            out_LRR=array(torch.stack([out.weight[:, :, 0].T for out in outs])),
            out_bias_LR=array(torch.stack([out.bias for out in outs])),
            first_SS=array(first.weight[:, :, 0].T), first_bias_S=array(first.bias),
            last_SV=array(last.weight[:, :, 0].T), last_bias_V=array(last.bias),
            dilations_L=np.array(self.dilations),
        )  # fmt: skip


def _bytes(text: str) -> Tensor:
    return torch.tensor(list(text.encode()), dtype=torch.int64)
