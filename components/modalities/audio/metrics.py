"""The metrics of sounds: how well a model foretells held-out samples, and what those that it makes are like.

`bits_per_sample` is of 256 classes by mu-law, `overfit` how many fewer the training side takes; `copied` is the share
of sounds beside one training window alone, `coverage` that of held-out ones with a sound near them; `fd` and `kd`
compare log-mel statistics, in squared standard deviations of the held-out ones; `spectral_distance` is in dB; the rest
are shares in [0, 1], or how far from the real share.
`understood` is of spoken texts, by a recogniser that chooses among all transcripts of the data: `understood_new` of
held-out ones; `label_accuracy` is how often a sound is taken for the class that was asked for, by discriminants of
training sounds, a mean over the classes; `voice_fd` and `voice_kd` are of an embedding and `mos` is the opinion that
listeners would have, 1 to 5, where what they need is installed. What lies behind the end of a sound counts nowhere.
N sounds, T samples, F frames, M bands, D features.
"""

import io
import math
import wave
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest
from typing import Any, Literal, Self

import numpy as np
import torch
from pydantic import JsonValue
from torch import Tensor

from components import fidelity, loading
from components.controls import PublicControl
from components.loading import Foretold
from components.modalities.audio import codec, opinions, picture, recogniser, voices
from components.modalities.audio.batch import PAD, Waves, plain
from components.modalities.audio.discriminants import Discriminants
from components.modalities.audio.prediction import Predictor
from components.modalities.audio.shards import FULL, Split

DIRECTIONS: Mapping[str, Literal["lower", "higher"]] = {
    "bits_per_sample": "lower",
    "bits_saved": "higher",
    "overfit": "lower",
    "copied": "lower",
    "rejected": "lower",
    "coverage": "higher",
    "fd": "lower",
    "kd": "lower",
    "spectral_distance": "lower",
    "clipped": "lower",
    "clicks": "lower",
    "silence_gap": "lower",
    "voiced_gap": "lower",
    "voice_fd": "lower",
    "voice_kd": "lower",
    "mos": "higher",
    "understood": "higher",
    "understood_new": "higher",
    "label_accuracy": "higher",
}
OF_TEXTS = ("understood", "understood_new")
# held where a recipe says nothing of the metric; `infra/decisions/0016-gates.md` says where the numbers come from
GATES: Sequence[Mapping[str, Any]] = (
    {"metric": "copied", "not_worse_than": "real", "margin": 0.01},
    {"metric": "clipped", "not_worse_than": "real", "margin": 0.01},
    {"metric": "clicks", "not_worse_than": "real", "margin": 0.01},
    {"metric": "silence_gap", "at_most": 0.5},
    {"metric": "coverage", "at_least": 0.002},
    {"metric": "overfit", "at_least": -0.3},  # below: the training side is foretold worse than what was held out
)
OF_LABELS = ("label_accuracy",)
OF_ROWS = (
    "copied",
    "rejected",
    "clipped",
    "clicks",
    "understood",
    "label_accuracy",
)  # shares of each sound vary less than rows
OF_VOICES = ("voice_fd", "voice_kd")
ROWS = 16  # windows that are foretold at once, each row going on where it ended
COPIED = 1 / 3  # of a sound that stands so much nearer to one training window than to the next: `fidelity.copied`
PAIRS = 6  # of a generated and a training sound, shown as evidence
REAL_AT_MOST = 1024  # held-out windows that generated sounds are compared with
BANDS = 24
FRAME, HOP = 0.032, 0.016  # s
QUIET = 1e-5  # power under which a frame is silent, -50 dB of full scale
JUMP = 0.5  # of full scale, from one sample to the next: none that speaks does that at 8 kHz
PITCH = (60.0, 400.0)  # Hz

Nats = Callable[..., tuple[Tensor, Any] | None]
Requests = Sequence[Mapping[str, Any]]
Said = tuple[str, str]  # a text, and the name of its class, empty where there is none


def lacking(
    metric: str, *, controls: Collection[str], prepare: Mapping[str, JsonValue], inspected: bool = False
) -> str | None:
    """What a recipe has to offer or prepare before such a metric can be measured; None where it does."""
    if metric in OF_VOICES and not voices.installed():
        return f"{metric} cannot be measured: {voices.LACKING}"
    if metric == "mos" and not opinions.installed():
        return f"mos cannot be measured: {opinions.LACKING}"
    if metric in OF_TEXTS and "text" not in controls:
        return (
            f"{metric} is about the control 'text', which the recipe does not offer. Add it to controls, as in "
            '{text: {default: ""}}, for candidates with `speaks: true`.'
        )
    if metric in OF_LABELS and "label" not in controls:
        return (
            f"{metric} is about the control 'label', which the recipe does not offer. Add it to controls, as in "
            "{label: {default: any}}, for candidates with `conditional: true`."
        )
    return None


@dataclass(frozen=True)
class Reference:
    """What generated sounds and their model are held against: both sides of the data."""

    train: Split
    held_out: Split

    @classmethod
    def of(cls, train: Split, held_out: Split, encoder: None, *, classes: tuple[str, ...]) -> Self:
        return cls(train, held_out)

    def measure(self, generated: Waves, asked: Requests = ({},)) -> dict[str, float]:
        """Every metric of this modality for one set of generated sounds."""
        told = self._against(generated, self._real) | self._heard(generated, [one.get("text", "") for one in asked])
        return told | self._known(generated, [one.get("label") for one in asked])

    def likelihood(self, nats: Nats) -> Foretold:
        """How well a model foretells the held-out side, and how much better as much of the training side."""
        held_out = self._bits(self.held_out, nats)
        if held_out is None:
            return {}, {}
        trained = self._bits(self.train, nats)
        assert trained is not None
        (bits, bits_B), (known, known_B) = held_out, trained
        values = {"bits_per_sample": bits, "bits_saved": self._predicted - bits, "overfit": bits - known}
        parts = {
            "bits_per_sample": bits_B, "bits_saved": self._predicted - bits_B, "overfit": bits_B - known_B,
        }  # fmt: skip
        return values, {name: tuple(found_B.tolist()) for name, found_B in parts.items()}

    def _bits(self, side: Split, nats: Nats) -> tuple[float, Tensor] | None:
        """Bits a sample over parts of a side, and of each part [B]; rows read on through clips in their order.

        Of each part what is beyond the length of held-out ones is left out.
        """
        rows = min(ROWS, len(side), len(self.held_out))
        total_B, count_B, memory = torch.zeros(rows, dtype=torch.float64), torch.zeros(rows), None
        for step in range(min(len(side), len(self.held_out)) // rows):
            batch = side.batch(loading.consecutive(len(side), step=step, size=rows))
            told = nats(batch, memory)
            if told is None:
                return None
            nats_B, memory = told
            total_B, count_B = total_B + nats_B.double(), count_B + batch.lengths
        return float(total_B.sum() / math.log(2) / count_B.sum()), total_B / math.log(2) / count_B

    @cached_property
    def _predicted(self) -> float:
        """The bits a sample of linear prediction, fitted to the same training side."""
        return Predictor.of(_clips(self.train)).bits_per_sample(_clips(self.held_out))

    @cached_property
    def _real(self) -> Waves:
        """Held-out windows, evenly over the side: whole recordings if there are texts, else full ones; or all."""
        every = self.held_out.batch(torch.arange(len(self.held_out)))
        kept_B = every.lengths == self.held_out.spec.length if every.text is None else (every.text != PAD).any(dim=1)
        kept = torch.nonzero(kept_B)[:, 0] if kept_B.any() else torch.arange(len(self.held_out))
        return every.rows(kept[torch.linspace(0, len(kept) - 1, min(REAL_AT_MOST, len(kept))).long()])

    @cached_property
    def _said(self) -> tuple[list[Said], ...]:
        """What is said in the windows of the training side and of the held-out one, where that is known."""
        classes = self.train.spec.classes
        sides: list[list[Said]] = []
        for split in (self.train, self.held_out):
            every = split.batch(torch.arange(len(split)))
            texts = [] if every.text is None else recogniser.transcripts(every.text)
            names = [""] * len(split) if every.labels is None else [classes[label] for label in every.labels.tolist()]
            sides.append([one for one in zip(texts, names, strict=False) if one[0]])
        return tuple(sides)

    @cached_property
    def _recogniser(self) -> recogniser.Recogniser:
        return recogniser.Recogniser([text for side in self._said for text, _ in side])

    def _heard(self, sounds: Waves, asked: Sequence[str]) -> dict[str, float]:
        """How many of the sounds that were to say something do; nothing where none was."""
        if not any(asked):
            return {}
        texts = [asked[at % len(asked)] for at in range(len(sounds))]
        known = {recogniser.spoken(text) for text, _ in self._said[0]}
        new = [text if recogniser.spoken(text) not in known else "" for text in texts]
        rate = self.held_out.spec.rate
        shares = {
            name: self._recogniser.understood(sounds, rate, said)
            for name, said in zip(OF_TEXTS, (texts, new), strict=True)
        }
        return {name: share for name, share in shares.items() if share is not None}

    @cached_property
    def _discriminants(self) -> Discriminants | None:
        """What knows the classes of real sounds; None where the data have none, or but one."""
        labels_N, classes = self._training.labels, len(self.train.spec.classes)
        if labels_N is None or classes < 2:
            return None
        return Discriminants.of(self._training_KD, labels_N, classes=classes)

    def _known(self, sounds: Waves, asked: Sequence[str | None]) -> dict[str, float]:
        """How often sounds are taken for the class that they were to be of; nothing where none was asked for."""
        if self._discriminants is None or None in asked:
            return {}
        classes = list(self.train.spec.classes)
        labels_N = torch.tensor([classes.index(str(asked[at % len(asked)])) for at in range(len(sounds))])
        return {"label_accuracy": self._discriminants.accuracy(_features(sounds, self.train.spec.rate), labels_N)}

    def _against(self, sounds: Waves, real: Waves) -> dict[str, float]:
        rate = self.held_out.spec.rate
        one_ND, other_MD = _features(sounds, rate), _features(real, rate)
        mean, deviation = other_MD.mean(dim=0), other_MD.std(dim=0).clamp(min=1e-3)
        one_ND, other_MD = (one_ND - mean) / deviation, (other_MD - mean) / deviation
        trained_KD = (self._training_KD - mean) / deviation
        return {
            "copied": float(fidelity.copied(one_ND, trained_KD).float().mean()),
            "coverage": fidelity.neighbourhoods(one_ND, other_MD)["coverage"],
            "fd": fidelity.frechet_distance(one_ND, other_MD),
            "kd": fidelity.kernel_distance(one_ND, other_MD),
            "spectral_distance": _spectral_distance(sounds, real, rate),
            **_of_voices(sounds, real, rate),
            **({"mos": opinions.mean_opinion(sounds, rate)} if opinions.installed() else {}),
            "clipped": _share(sounds.samples.abs() >= 0.999, sounds),
            "clicks": _share(sounds.samples.diff(dim=1, prepend=sounds.samples[:, :1]).abs() > JUMP, sounds),
            "silence_gap": abs(_silence(sounds, rate) - _silence(real, rate)),
            "voiced_gap": abs(_voiced(sounds, rate) - _voiced(real, rate)),
        }

    @cached_property
    def _training(self) -> Waves:
        """Every window of the training side."""
        return self.train.batch(torch.arange(len(self.train)))

    @cached_property
    def _training_KD(self) -> Tensor:
        return _features(self._training, self.train.spec.rate)

    def placed(self, rows: Waves) -> fidelity.Placed:
        """How far each sound is from training windows, and how much nearer to one than to the next."""
        rate = self.held_out.spec.rate
        deviation = _features(self._real, rate).std(dim=0).clamp(min=1e-3)
        rows_ND, trained_KD = _features(rows, rate) / deviation, self._training_KD / deviation
        return fidelity.Placed(fidelity.nearest(rows_ND, trained_KD), fidelity.suspicion(rows_ND, trained_KD)[0])

    def like_rejected(self, generated: Waves | None, rejected: Waves) -> float:
        """The share of sounds that are nearer to what people rejected than to as many held-out ones.

        A half where neither is favoured. None stands for training windows, of which real ones there are most.
        """
        rate = self.held_out.spec.rate
        real_MD = _features(self._real, rate)
        deviation = real_MD.std(dim=0).clamp(min=1e-3)
        rows_ND = self._training_KD if generated is None else _features(generated, rate)
        rejected_KD = _features(rejected, rate) / deviation
        return float(fidelity.nearer(rows_ND / deviation, rejected_KD, real_MD / deviation).float().mean())

    def real(self, count: int) -> Waves:
        """So many held-out sounds of those that are compared with, evenly; all of them where there are fewer."""
        return self._real.rows(torch.linspace(0, len(self._real) - 1, min(count, len(self._real))).long())

    def seen(self, rows: Waves) -> None:
        """Nothing here tells the class of a sound."""

    def worth(self, generated: Sequence[Waves], labels_N: Tensor, *, asked: bool) -> dict[str, float]:
        """Nothing: no classifier of sounds is taught here."""
        return {}

    def evidence(self, generated: Waves) -> dict[str, bytes]:
        """The sounds that look most like copies, worst first, each before the training window that it is nearest to."""
        rate = self.held_out.spec.rate
        deviation = _features(self._real, rate).std(dim=0).clamp(min=1e-3)
        suspicion_N, place_N = fidelity.suspicion(_features(generated, rate) / deviation, self._training_KD / deviation)
        worst = suspicion_N.argsort()[:PAIRS]
        size = max(generated.samples.shape[1], self._training.samples.shape[1])
        pairs = [
            torch.nn.functional.pad(rows.samples[index], (0, size - rows.samples.shape[1]))
            for rows, index in ((generated, worst), (self._training, place_N[worst]))
        ]
        lengths = torch.stack([generated.lengths[worst], self._training.lengths[place_N[worst]]], dim=1).flatten()
        shown = Waves(torch.stack(pairs, dim=1).flatten(0, 1), lengths)
        return {
            "nearest.png": picture.sheet(shown, self.held_out.spec, columns=2),
            "nearest.wav": _one_after_another(shown, rate),
        }

    def given(self, count: int) -> None:
        """Sounds are made from seeds alone."""

    def requests(self, controls: Mapping[str, PublicControl]) -> Requests:
        """What sounds are asked for, over and over: the texts of both sides in turn where the endpoint speaks.

        Else sounds as long as a window, if it lets; in either case of each class in turn, where it lets choose one.
        """
        names = self._classes(controls)
        if "text" in controls:
            sides = [_once((text, name if names else "") for text, name in side) for side in self._said]
            said = [one for pair in zip_longest(*sides) for one in pair if one and self._can_be_said(one[0])]
            if not names:
                return [{"text": text} for text, _ in said]
            groups = [[{"text": text, "label": name} for text, name in said if name == asked] for asked in names]
            return _in_turn([group for group in groups if group])
        length = {"seconds": self.held_out.spec.length / self.held_out.spec.rate} if "seconds" in controls else {}
        return [{"label": name, **length} for name in names] or [length]

    def _classes(self, controls: Mapping[str, PublicControl]) -> Sequence[str]:
        """The classes of the data that the endpoint lets choose, in order."""
        if "label" not in controls:
            return ()
        choices = controls["label"].choices
        return [name for name in self.train.spec.classes if choices is None or name in choices]

    def _can_be_said(self, text: str) -> bool:
        return set(plain(text)) <= set(self.held_out.spec.characters)

    def floor(self) -> dict[str, float]:
        """The same metrics for real sounds: one half of the held-out windows against the other."""
        order = torch.randperm(len(self._real), generator=torch.Generator().manual_seed(0))
        one, other = (self._real.rows(half) for half in order.chunk(2))
        heard = {} if self._real.text is None else self._heard(self._real, recogniser.transcripts(self._real.text))
        return {**self._against(one, other), **heard, **self._real_known(), "bits_per_sample": self._predicted}

    def _real_known(self) -> dict[str, float]:
        """How often held-out sounds are taken for their own class."""
        labels_N = self._real.labels
        if self._discriminants is None or labels_N is None:
            return {}
        return {"label_accuracy": self._discriminants.accuracy(_features(self._real, self.train.spec.rate), labels_N)}

    def sheets(self, generated: Waves) -> dict[str, bytes]:
        """What a person looks at and listens to: generated sounds, and as many real ones."""
        spec, real = self.held_out.spec, self._real.rows(torch.arange(len(generated)) % len(self._real))
        shown = {"generated": generated, "held_out": real}
        pictures = {f"{name}.png": picture.sheet(rows.rows(slice(12)), spec, columns=3) for name, rows in shown.items()}
        return pictures | {
            f"{name}.wav": _one_after_another(rows.rows(slice(12)), spec.rate) for name, rows in shown.items()
        }


def _clips(split: Split) -> list[np.ndarray]:
    """Every clip of a side [N] in [-1, 1]."""
    starts = np.concatenate([[0], split.ends[:-1]])
    return [split.samples[start:end].astype(np.float64) / FULL for start, end in zip(starts, split.ends, strict=True)]


def _once(said: Iterable[Said]) -> list[Said]:
    """Each once, in order."""
    return list(dict.fromkeys(said))


def _in_turn(groups: Sequence[Requests]) -> Requests:
    """One of each group after another, those of shorter ones over and over."""
    most = max(map(len, groups), default=0)
    return [group[at % len(group)] for at in range(most) for group in groups]


def _frames(sounds: Waves, rate: int) -> tuple[Tensor, Tensor]:
    """Windows [N, F, T] of each sound, and which of them it fills [N, F]: the first in any case."""
    size, hop = round(FRAME * rate), round(HOP * rate)
    samples = torch.nn.functional.pad(sounds.samples.float(), (0, max(0, size - sounds.samples.shape[1])))
    frames = samples.unfold(1, size, hop)
    ends_F = torch.arange(frames.shape[1]) * hop + size
    return frames, (ends_F <= sounds.lengths[:, None]) | (ends_F == size)


def _log_mel(sounds: Waves, rate: int) -> tuple[Tensor, Tensor]:
    """The power of each band in dB [N, F, M], on the mel scale (O'Shaughnessy, 1987), and which frames count [N, F]."""
    frames, filled = _frames(sounds, rate)
    size = frames.shape[-1]
    power = torch.fft.rfft(frames * torch.hann_window(size)).abs().square() / size
    edges = 700 * torch.expm1(torch.linspace(0, math.log1p(rate / 2 / 700), BANDS + 2))
    frequencies = torch.linspace(0, rate / 2, power.shape[-1])[:, None]
    up = (frequencies - edges[:-2]) / (edges[1:-1] - edges[:-2])
    down = (edges[2:] - frequencies) / (edges[2:] - edges[1:-1])
    return 10 * torch.log10(power @ torch.minimum(up, down).clamp(min=0) + 1e-8), filled


def _features(sounds: Waves, rate: int) -> Tensor:
    """The mean and the deviation of each band over a sound [N, 2 M]."""
    bands, filled = _log_mel(sounds, rate)
    share = (filled / filled.sum(dim=1, keepdim=True))[:, :, None]
    mean = (bands * share).sum(dim=1)
    return torch.cat([mean, ((bands - mean[:, None]).square() * share).sum(dim=1).sqrt()], dim=1)


def _spectral_distance(one: Waves, other: Waves, rate: int) -> float:
    """Between the mean spectra of two sets of sounds: the root of the mean squared difference of their bands in dB."""
    spectra = [bands[filled].mean(dim=0) for bands, filled in (_log_mel(sounds, rate) for sounds in (one, other))]
    return float((spectra[0] - spectra[1]).square().mean().sqrt())


def _of_voices(sounds: Waves, real: Waves, rate: int) -> dict[str, float]:
    """Between two sets of voices; nothing where no embedding is installed."""
    if not voices.installed():
        return {}
    one_ND, other_MD = voices.features(sounds, rate), voices.features(real, rate)
    distances = (fidelity.frechet_distance(one_ND, other_MD), fidelity.kernel_distance(one_ND, other_MD))
    return dict(zip(OF_VOICES, distances, strict=True))


def _silence(sounds: Waves, rate: int) -> float:
    """The share of frames without sound."""
    frames, filled = _frames(sounds, rate)
    return float((frames[filled].square().mean(dim=-1) < QUIET).float().mean())


def _voiced(sounds: Waves, rate: int) -> float:
    """The share of frames with sound that repeat themselves at a pitch of speech: autocorrelation of over a half."""
    frames, filled = _frames(sounds, rate)
    frames = frames[filled]
    frames = frames[frames.square().mean(dim=-1) >= QUIET]
    if not len(frames):
        return 0.0
    size = frames.shape[-1]
    centred = frames - frames.mean(dim=1, keepdim=True)
    alike = torch.fft.irfft(torch.fft.rfft(centred, 2 * size).abs().square())[:, :size]
    lags = alike[:, round(rate / PITCH[1]) : round(rate / PITCH[0])]
    return float((lags.amax(dim=1) > 0.5 * alike[:, 0]).float().mean())


def _share(there: Tensor, sounds: Waves) -> float:
    """How much of all samples something is true of [N, T], less what lies behind an end."""
    inside = torch.arange(there.shape[1]) < sounds.lengths[:, None]
    return float((there & inside).sum() / inside.sum())


def _one_after_another(sounds: Waves, rate: int) -> bytes:
    """The sounds as one WAV, a quarter of a second apart."""
    gap = np.zeros(rate // 4, np.int16)
    whole = codec.to_whole(sounds.samples)
    parts = [part for row, length in zip(whole, sounds.lengths.tolist(), strict=True) for part in (row[:length], gap)]
    stream = io.BytesIO()
    with wave.open(stream, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.concatenate(parts).astype("<i2").tobytes())
    return stream.getvalue()
