"""Which class a sound is of, told from its features by linear discriminants (Fisher, 1936; Rao, 1948).

N sounds, D features, K classes.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

SHRUNK = 0.05  # share of the covariance that is its diagonal alone: classes of few sounds would lie in it otherwise


@dataclass(frozen=True)
class Discriminants:
    """The discriminants of real sounds; no class is likelier before a sound is heard, however many sounds it has."""

    weights_DK: Tensor
    offsets_K: Tensor  # minus infinity for a class of which no sound was there

    @classmethod
    def of(cls, features_ND: Tensor, labels_N: Tensor, *, classes: int) -> Self:
        """Fitted to labelled sounds: the same sounds give the same discriminants."""
        features_ND = features_ND.double()
        known_K = torch.bincount(labels_N, minlength=classes) > 0
        means_KD = torch.zeros(classes, features_ND.shape[1], dtype=torch.float64)
        means_KD[known_K] = torch.stack(
            [features_ND[labels_N == label].mean(dim=0) for label in known_K.nonzero()[:, 0]]
        )
        around_ND = features_ND - means_KD[labels_N]
        covariance_DD = around_ND.T @ around_ND / len(around_ND)
        diagonal_D = covariance_DD.diagonal().clamp(min=1e-6)
        shrunk_DD = (1 - SHRUNK) * covariance_DD + SHRUNK * diagonal_D.diag()
        weights_DK = torch.linalg.solve(shrunk_DD, means_KD.T)
        offsets_K = (-0.5 * (means_KD.T * weights_DK).sum(dim=0)).masked_fill(~known_K, -torch.inf)
        return cls(weights_DK, offsets_K)

    def accuracy(self, features_ND: Tensor, labels_N: Tensor) -> float:
        """The share of sounds that are taken for their class: the mean over the classes that they are of."""
        right_N = (features_ND.double() @ self.weights_DK + self.offsets_K).argmax(dim=1) == labels_N
        there = torch.bincount(labels_N).nonzero()[:, 0]
        return float(torch.stack([right_N[labels_N == label].double().mean() for label in there]).mean())
