"""What a sound is to say, moment by moment: each character of a text at the time when it is spoken.

How long each lasts is learnt from nothing but the lengths of whole recordings, through an alignment that can be
differentiated: the aligner of EATS (arXiv:2006.03575, section 2.1). B batch, L bytes of text, F frames, C channels.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from components.modalities.audio.batch import PAD

FRAME = 0.01  # s
SOFTNESS = 10.0  # squared frames: the temperature of EATS' alignment
SPOKEN = 8.0  # frames that a character lasts, before anything is learnt
BLOCKS = 3


class Conditions(nn.Module):
    """A text and a label as channels of each frame; unknown ones have channels of their own.

    `classes` is how many labels there are, 0 where none is minded; `reads` whether texts are.
    """

    def __init__(self, channels: int, *, classes: int, reads: bool) -> None:
        super().__init__()
        self.channels, self.reads = channels, reads
        self.labels = nn.Embedding(classes + 1, channels) if classes else None  # the last is any
        if reads:
            self.bytes = nn.Embedding(PAD + 1, channels, padding_idx=PAD)
            self.mixing = nn.ModuleList(nn.Conv1d(channels, channels, 5, padding=2) for _ in range(BLOCKS))
            self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(BLOCKS))
            self.lasting = nn.Linear(channels, 1)
            nn.init.zeros_(self.lasting.weight)
            nn.init.constant_(self.lasting.bias, SPOKEN)
            self.silent = nn.Parameter(torch.zeros(channels))

    def lengths(self, text_BL: Tensor) -> Tensor:
        """How many frames each text takes [B], as a fraction; gradients reach what foretells it."""
        return self._read(text_BL)[1].sum(dim=1)

    def forward(self, text_BL: Tensor | None, labels_B: Tensor | None, frames_B: Tensor, frames: int) -> Tensor:
        """Channels [B, F, C]; a text is stretched to its row's number of frames, and the last of it stays."""
        told_BFC = self.zeros(len(frames_B), frames)
        if self.labels is not None:
            any_B = torch.full_like(frames_B, self.labels.num_embeddings - 1, dtype=torch.int64)
            told_BFC = told_BFC + self.labels(any_B if labels_B is None else labels_B)[:, None]
        if not self.reads:
            return told_BFC
        if text_BL is None:
            return told_BFC + self.silent
        read_BLC, lasting_BL = self._read(text_BL)
        ends_BL = (lasting_BL * (frames_B / lasting_BL.sum(dim=1).clamp(min=1e-3))[:, None]).cumsum(dim=1)
        middle_BL = (ends_BL + F.pad(ends_BL[:, :-1], (1, 0))) / 2
        places_F1 = torch.arange(frames, device=middle_BL.device)[:, None] + 0.5
        near_BFL = -(places_F1 - middle_BL[:, None]).square() / SOFTNESS
        there_BL = text_BL != PAD
        near_BFL = near_BFL.masked_fill(~there_BL[:, None], torch.finfo(near_BFL.dtype).min)
        known_B11 = there_BL.any(dim=1)[:, None, None]
        return told_BFC + torch.where(known_B11, near_BFL.softmax(dim=2) @ read_BLC, self.silent)

    def zeros(self, rows: int, frames: int) -> Tensor:
        """Nothing told [B, F, C]."""
        return next(self.parameters()).new_zeros(rows, frames, self.channels)

    def _read(self, text_BL: Tensor) -> tuple[Tensor, Tensor]:
        """Each character in its surroundings [B, L, C], and for how many frames it lasts [B, L], 0 where none is."""
        there_BL1 = (text_BL != PAD)[:, :, None]
        read_BLC = self.bytes(lower(text_BL))
        for mix, norm in zip(self.mixing, self.norms, strict=True):
            read_BLC = read_BLC + F.relu(mix(norm(read_BLC).masked_fill(~there_BL1, 0).mT).mT)
        lasting_BL = F.softplus(self.lasting(read_BLC))[:, :, 0] * there_BL1[:, :, 0]
        return read_BLC.masked_fill(~there_BL1, 0), lasting_BL


def lower(text: Tensor) -> Tensor:
    """Bytes of ASCII in small letters; what else there is stays."""
    return torch.where((text >= ord("A")) & (text <= ord("Z")), text + 32, text)
