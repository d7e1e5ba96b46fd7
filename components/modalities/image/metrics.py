"""The metrics of pictures: generated against held-out, in the features of a frozen classifier.

`fd` and `kd` in squared feature units, the rest shares in [0, 1] except `density`, from 0 up; `unsafe` is the share
that shows what the recipe's moderation names, as the network sees it that was handed in for that. Of restored pictures
`psnr` in decibels and `ssim` up to 1 say how near they are to what they were before they were degraded.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Self

import torch
from pydantic import JsonValue
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from components import fidelity
from components.controls import PublicControl
from components.loading import Foretold, Split
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
    "authenticity": "higher",
    "nearer_train": "lower",
    "rejected": "lower",
    "label_entropy": "higher",
    "unsafe": "lower",
    "label_accuracy": "higher",
    "cas": "higher",
    "augmentation_gain": "higher",
    "code_accuracy": "higher",
    "psnr": "higher",
    "ssim": "higher",
}
# held where a recipe says nothing of the metric; `infra/decisions/0016-gates.md` says where the numbers come from
GATES: Sequence[Mapping[str, Any]] = (
    {"metric": "copied", "not_worse_than": "real", "margin": 0.005},
    {"metric": "authenticity", "not_worse_than": "real", "margin": 0.2},
    {"metric": "nearer_train", "at_most": 0.6},
    {"metric": "nearer_train", "at_least": 0.4},
    {"metric": "label_entropy", "at_least": 0.6},
    {"metric": "unsafe", "at_most": 0.01},
)
OF_ROWS = ("precision", "copied", "authenticity", "nearer_train", "rejected", "label_accuracy", "unsafe")
OF_FEEDBACK = ("rejected",)  # what people did not like measures it
OF_INSPECTION = ("unsafe",)  # what a network that is handed in sees, which measures it
OF_LABELS, OF_CODES, OF_RESTORED = ("label_accuracy", "cas", "augmentation_gain"), ("code_accuracy",), ("psnr", "ssim")
DECIBELS_AT_MOST = (
    60.0  # of one row: more is below what eight bits tell apart, and a row without error has infinitely many
)

COPIED = 1 / 3  # of a row that stands so much nearer to one training row than to the next: `fidelity.copied`
PAIRS = 30  # of a generated and a training row, shown as evidence

Requests = Sequence[Mapping[str, Any]]  # public controls


def lacking(
    metric: str, *, controls: Collection[str], prepare: Mapping[str, JsonValue], inspected: bool = False
) -> str | None:
    """What a recipe has to offer or prepare before such a metric can be measured; None where it lacks nothing."""
    if metric in OF_LABELS and "label" not in controls:
        return (
            f"{metric} is about the control 'label', which the recipe does not offer. Add it to controls, as in "
            "{label: {default: any, choices: [any, ...]}}."
        )
    if metric in OF_CODES and "code" not in controls:
        return (
            f"{metric} is about the control 'code', which the recipe does not offer. Add it to controls, as in "
            "{code: {default: -1, at_least: -1, at_most: 9}}."
        )
    if metric in OF_INSPECTION and not inspected:
        return (
            f"{metric} is what a network sees that the recipe hands in, and it names none. Add it to moderation, as in "
            "{images: {model: models/judge.onnx, block: {nudity: 1}}}."
        )
    if metric == "nearer_train" and prepare.get("degrade"):
        return (
            "nearer_train says nothing of pictures that are restored: they are made from held-out ones. Leave it out."
        )
    if metric in OF_RESTORED and not prepare.get("degrade"):
        return (
            f"{metric} is about pictures that are restored, and the recipe degrades none. Add how to prepare, as in "
            "{degrade: blur}."
        )
    return None


@dataclass(frozen=True)
class Reference:
    """What generated pictures are held against: held-out features [M, D], and training rows."""

    encoder: Classifier
    names: tuple[str, ...]  # of the classes
    held_out_MD: Tensor
    training: Images
    held_out: Images

    @classmethod
    def of(cls, train: Split, held_out: Split, encoder: Classifier, *, classes: tuple[str, ...]) -> Self:
        rows, training = _all(held_out), _all(train)
        return cls(encoder, classes, encoder.embed(rows), training, rows)

    def measure(self, generated: Images, asked: Requests = ({},)) -> dict[str, float]:
        """Every metric of this modality for one set of generated pictures, asked for so over and over."""
        features_ND = self.encoder.embed(generated)
        labels_N = self._labels(generated, features_ND)
        return {
            "fd": fidelity.frechet_distance(features_ND, self.held_out_MD),
            "kd": fidelity.kernel_distance(features_ND, self.held_out_MD),
            **fidelity.neighbourhoods(features_ND, self.held_out_MD),
            **self._memory(generated, features_ND),
            "label_entropy": fidelity.entropy_share(labels_N, len(self.names)),
            **self._control(generated, labels_N),
            **self._codes(asked, labels_N),
            **self._likeness(generated),
        }

    def likelihood(self, nats: object) -> Foretold:
        """Nothing: a likelihood of pictures says little of how they look, and most families have none."""
        return {}, {}

    @cached_property
    def _training_ND(self) -> Tensor:
        """Features of the training side."""
        return self.encoder.embed(self.training)

    def _memory(self, rows: Images, features_ND: Tensor) -> dict[str, float]:
        """How much rows are like single training rows: in pixels, which copies share, and in features.

        What is restored is nearer to held-out rows because it is made from them: that says nothing.
        """
        pixels, training = rows.pixels.flatten(1).cpu(), self.training.pixels.flatten(1)
        told = {
            "copied": _share_of(fidelity.copied(pixels, training)),
            "authenticity": _share_of(fidelity.authentic(features_ND, self._training_ND)),
        }
        if self.encoder.spec.degrade is None and rows is not self.held_out:
            told["nearer_train"] = _share_of(fidelity.nearer(pixels, training, self.held_out.pixels.flatten(1)))
        return told

    def placed(self, rows: Images) -> fidelity.Placed:
        """How far each row is from training rows, in features, and how alone it is beside one of them, in pixels."""
        alone_N, _ = fidelity.suspicion(rows.pixels.flatten(1).cpu(), self.training.pixels.flatten(1))
        return fidelity.Placed(fidelity.nearest(self.encoder.embed(rows), self._training_ND), alone_N)

    def like_rejected(self, generated: Images | None, rejected: Images) -> float:
        """The share of rows that are nearer, in features, to what people rejected than to as many held-out rows.

        A half where neither is favoured. None stands for training rows, of which real ones there are most.
        """
        rows_ND = self._training_ND if generated is None else self.encoder.embed(generated)
        return _share_of(fidelity.nearer(rows_ND, self.encoder.embed(rejected), self.held_out_MD))

    def real(self, count: int) -> Images:
        """So many held-out rows, evenly over the side; all of them where there are fewer."""
        few = torch.linspace(0, len(self.held_out) - 1, min(count, len(self.held_out))).long()
        return self.held_out.rows(few)

    def seen(self, rows: Images) -> Tensor | None:
        """The class of each row [N] as the classifier sees it."""
        return self._labels(rows, self.encoder.embed(rows))

    def worth(self, generated: Sequence[Images], labels_N: Tensor, *, asked: bool) -> dict[str, float]:
        """What labelled rows are worth to a classifier, and how well labels are obeyed where they were asked for."""
        rows = Images(torch.cat([one.pixels for one in generated]), labels_N)
        told = self._control(rows, self._labels(rows, self.encoder.embed(rows)))
        return {name: value for name, value in told.items() if asked or name != "label_accuracy"}

    def evidence(self, generated: Images) -> dict[str, bytes]:
        """The rows that look most like copies, worst first, each beside the training row that it is nearest to."""
        suspicion_N, place_N = fidelity.suspicion(generated.pixels.flatten(1).cpu(), self.training.pixels.flatten(1))
        worst = suspicion_N.argsort()[:PAIRS]
        pairs = torch.stack([generated.pixels.cpu()[worst], self.training.pixels[place_N[worst]]], dim=1).flatten(0, 1)
        return {"nearest.png": codec.grid(Images(pixels=pairs), columns=10)}

    def _labels(self, rows: Images, embedded_ND: Tensor) -> Tensor:
        """The class of each row to the classifier, whose features are those embedded unless a space was handed in."""
        return self.encoder.labels(embedded_ND if self.encoder.space is None else self.encoder.features(rows))

    def _control(self, generated: Images, labels_N: Tensor) -> dict[str, float]:
        """How well rows that were asked for by label show it, to a classifier of real rows and to one of their own.

        `cas` is the classification accuracy score (Ravuri and Vinyals, 2019, arXiv:1905.10887): a classifier that
        saw generated rows only, tested on the held-out ones. `augmentation_gain` is how much more of those one knows
        that saw as many real rows and the generated ones than one that saw those real rows alone.
        """
        if generated.labels is None or self.held_out.labels is None or self.training.labels is None:
            return {}
        few_N = self._order[: len(generated)]
        both = Images(
            torch.cat([self.training.pixels[few_N], generated.pixels.cpu()]),
            torch.cat([self.training.labels[few_N], generated.labels.cpu()]),
        )
        if len(few_N) not in self._known_by_few:
            self._known_by_few[len(few_N)] = self._taught(self.training.rows(few_N))
        return {
            "label_accuracy": _share(labels_N, generated.labels),
            "cas": self._taught(generated),
            "augmentation_gain": self._taught(both) - self._known_by_few[len(few_N)],
        }

    @cached_property
    def _order(self) -> Tensor:
        """The training rows by lot, with a fixed seed."""
        return torch.randperm(len(self.training), generator=torch.Generator().manual_seed(0))

    @cached_property
    def _known_by_few(self) -> dict[int, float]:
        """What classifiers of so many training rows alone know of the held-out ones, once each."""
        return {}

    def _taught(self, rows: Images) -> float:
        """The share of held-out rows that a classifier of these rows knows."""
        assert self.held_out.labels is not None
        classifier = fit(_Rows(rows), self.encoder.spec, seed=0)
        return _share(classifier.labels(classifier.features(self.held_out)), self.held_out.labels)

    def _codes(self, asked: Requests, labels_N: Tensor) -> dict[str, float]:
        """How far a code names a class of the real rows, as none was taught: 1 where each has a class of its own.

        The share of rows whose class is that of their code, in the pairing of codes and classes that makes most of them
        so (Kuhn's assignment, doi:10.1002/nav.3800020109). Chance is one over the classes.
        """
        if "code" not in asked[0]:
            return {}
        names = sorted({request["code"] for request in asked})
        codes_N = torch.tensor([names.index(asked[i % len(asked)]["code"]) for i in range(len(labels_N))])
        count_KC = torch.zeros(len(names), len(self.names))
        count_KC.index_put_((codes_N, labels_N), torch.ones(len(codes_N)), accumulate=True)
        paired = linear_sum_assignment(count_KC, maximize=True)
        return {"code_accuracy": float(count_KC[paired].sum() / len(codes_N))}

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

    def requests(self, controls: Mapping[str, PublicControl]) -> Requests:
        """What generated rows are asked for, over and over: nothing in particular, or what the endpoint lets choose.

        With labels the label of a held-out row each; with codes each code in turn.
        """
        if "label" in controls and self.held_out.labels is not None:
            return [{"label": self.names[label]} for label in self.held_out.labels.tolist()]
        if "code" in controls:
            return [{"code": code} for code in _codes(controls["code"])]
        return [{}]

    def floor(self) -> dict[str, float]:
        """The same metrics for real pictures: one half of the held-out rows against the other."""
        order = torch.randperm(len(self.held_out_MD), generator=torch.Generator().manual_seed(0))
        one, other = order.chunk(2)
        labels, found_M = self.held_out.labels, self._labels(self.held_out, self.held_out_MD)
        left_ND, right_ND = self.held_out_MD[one], self.held_out_MD[other]
        return {
            "fd": fidelity.frechet_distance(left_ND, right_ND),
            "kd": fidelity.kernel_distance(left_ND, right_ND),
            **fidelity.neighbourhoods(left_ND, right_ND),
            **self._memory(self.held_out, self.held_out_MD),
            "label_entropy": fidelity.entropy_share(found_M, len(self.names)),
            **({} if labels is None else {"label_accuracy": _share(found_M, labels)}),
        }

    def sheets(self, generated: Images) -> dict[str, bytes]:
        """The pictures a person looks at: generated rows, what they were given, and real ones of the same number."""
        given, real = self.given(len(generated)), self._cycled(len(generated))
        shown = {"generated": generated, "held_out": real} | ({} if given is None else {"given": given})
        return {f"{name}.png": codec.grid(images, columns=10) for name, images in shown.items()}


def _codes(control: PublicControl) -> list[int]:
    """The codes that may be asked for; what is below 0 stands for any."""
    if control.choices is not None:
        return [int(choice) for choice in control.choices if int(choice) >= 0]
    return list(range(int(control.at_most or 0) + 1))


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


def _share_of(flags_N: Tensor) -> float:
    return float(flags_N.float().mean())


def _all(split: Split) -> Images:
    images = split.batch(torch.arange(len(split)))
    assert isinstance(images, Images)
    return images
