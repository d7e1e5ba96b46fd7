"""The metrics of pictures: generated against held-out, in the features of a frozen classifier.

`fd` and `kd` in squared feature units, the rest shares in [0, 1] except `density`, from 0 up. Of restored pictures
`psnr` in decibels and `ssim` up to 1 say how near they are to what they were before they were degraded.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal, Self

import torch
from pydantic import JsonValue
from torch import Tensor

from components import fidelity
from components.controls import PublicControl
from components.loading import Split
from components.modalities.image import codec
from components.modalities.image.batch import Images, degrade
from components.modalities.image.classifier import Classifier, fit

DIRECTIONS: Mapping[str, Literal["lower", "higher"]] = {
    "fd": "lower",
    "kd": "lower",
    "precision": "higher",
    "recall": "higher",
    "density": "higher",
    "coverage": "higher",
    "copied": "lower",
    "label_entropy": "higher",
    "label_accuracy": "higher",
    "cas": "higher",
    "psnr": "higher",
    "ssim": "higher",
}
OF_LABELS, OF_RESTORED = ("label_accuracy", "cas"), ("psnr", "ssim")
DECIBELS_AT_MOST = (
    60.0  # of one row: more is below what eight bits tell apart, and a row without error has infinitely many
)


def lacking(metric: str, *, controls: Collection[str], prepare: Mapping[str, JsonValue]) -> str | None:
    """What a recipe has to offer or prepare before such a metric can be measured; None where it lacks nothing."""
    if metric in OF_LABELS and "label" not in controls:
        return (
            f"{metric} is about the control 'label', which the recipe does not offer. Add it to controls, as in "
            "{label: {default: any, choices: [any, ...]}}."
        )
    if metric in OF_RESTORED and not prepare.get("degrade"):
        return (
            f"{metric} is about pictures that are restored, and the recipe degrades none. Add how to prepare, as in "
            "{degrade: blur}."
        )
    return None


@dataclass(frozen=True)
class Reference:
    """What generated pictures are held against: held-out features [M, D] and training pixels [N, pixels]."""

    encoder: Classifier
    names: tuple[str, ...]  # of the classes
    held_out_MD: Tensor
    training: Tensor
    held_out: Images

    @classmethod
    def of(cls, train: Split, held_out: Split, encoder: Classifier, *, classes: tuple[str, ...]) -> Self:
        rows, training = _all(held_out), _all(train)
        return cls(encoder, classes, encoder.features(rows), training.pixels.flatten(1), rows)

    def measure(self, generated: Images) -> dict[str, float]:
        """Every metric of this modality for one set of generated pictures."""
        features_ND = self.encoder.features(generated)
        return {
            "fd": fidelity.frechet_distance(features_ND, self.held_out_MD),
            "kd": fidelity.kernel_distance(features_ND, self.held_out_MD),
            **fidelity.neighbourhoods(features_ND, self.held_out_MD),
            "copied": float(fidelity.copied(generated.pixels.flatten(1), self.training).float().mean()),
            "label_entropy": fidelity.entropy_share(self.encoder.labels(features_ND), len(self.names)),
            **self._control(generated, features_ND),
            **self._likeness(generated),
        }

    def _control(self, generated: Images, features_ND: Tensor) -> dict[str, float]:
        """How well rows that were asked for by label show it, to a classifier of real rows and to one of their own.

        `cas` is the classification accuracy score (Ravuri and Vinyals, 2019, arXiv:1905.10887): a classifier that
        saw generated rows only, tested on the held-out ones.
        """
        if generated.labels is None or self.held_out.labels is None:
            return {}
        taught = fit(_Rows(generated), self.encoder.spec, seed=0)
        found_M = taught.labels(taught.features(self.held_out))
        return {
            "label_accuracy": _share(self.encoder.labels(features_ND), generated.labels),
            "cas": _share(found_M, self.held_out.labels),
        }

    def _likeness(self, generated: Images) -> dict[str, float]:
        """How near rows are to the originals of what they were made from, which are given in the order of `given`."""
        if self.encoder.spec.degrade is None:
            return {}
        pixels, original = generated.pixels.cpu(), self._cycled(len(generated)).pixels
        decibels_N = fidelity.psnr(pixels, original).clamp(max=DECIBELS_AT_MOST)
        return {"psnr": float(decibels_N.mean()), "ssim": float(fidelity.ssim(pixels, original).mean())}

    def given(self, count: int) -> Images | None:
        """What models are to restore: held-out rows over and over, degraded; None where the task is another."""
        how = self.encoder.spec.degrade
        return None if how is None else Images(degrade(self._cycled(count).pixels, how))

    def _cycled(self, count: int) -> Images:
        return self.held_out.rows(torch.arange(count) % len(self.held_out))

    def requests(self, controls: Mapping[str, PublicControl]) -> list[dict[str, str]]:
        """What generated rows are asked for: the label of a held-out row each, where the endpoint takes labels."""
        if "label" not in controls or self.held_out.labels is None:
            return [{}]
        return [{"label": self.names[label]} for label in self.held_out.labels.tolist()]

    def floor(self) -> dict[str, float]:
        """The same metrics for real pictures: one half of the held-out rows against the other."""
        order = torch.randperm(len(self.held_out_MD), generator=torch.Generator().manual_seed(0))
        one, other = order.chunk(2)
        labels = self.held_out.labels
        left_ND, right_ND = self.held_out_MD[one], self.held_out_MD[other]
        return {
            "fd": fidelity.frechet_distance(left_ND, right_ND),
            "kd": fidelity.kernel_distance(left_ND, right_ND),
            **fidelity.neighbourhoods(left_ND, right_ND),
            "copied": float(fidelity.copied(self.held_out.pixels.flatten(1), self.training).float().mean()),
            "label_entropy": fidelity.entropy_share(self.encoder.labels(self.held_out_MD), len(self.names)),
            **({} if labels is None else {"label_accuracy": _share(self.encoder.labels(self.held_out_MD), labels)}),
        }

    def sheets(self, generated: Images) -> dict[str, bytes]:
        """The pictures a person looks at: generated rows, what they were given, and real ones of the same number."""
        given, real = self.given(len(generated)), self._cycled(len(generated))
        shown = {"generated": generated, "held_out": real} | ({} if given is None else {"given": given})
        return {name: codec.grid(images, columns=10) for name, images in shown.items()}


@dataclass(frozen=True)
class _Rows:
    """A batch as one side to train on."""

    images: Images

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, index: Tensor) -> Images:
        return self.images.rows(index)


def _share(found_B: Tensor, wanted_B: Tensor) -> float:
    return float((found_B == wanted_B.cpu()).float().mean())


def _all(split: Split) -> Images:
    images = split.batch(torch.arange(len(split)))
    assert isinstance(images, Images)
    return images
