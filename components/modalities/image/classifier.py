"""A small classifier of pictures, whose last hidden layer is the feature space of the image metrics.

B batch, D features, K classes.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from components import loading
from components.errors import AtelierError
from components.modalities.image.batch import Images, ImageSpec

FEATURES = 64  # few, since a Frechet distance needs many more rows than features
EPOCHS = 5
BATCH = 64


class Classifier(nn.Module):
    """Three convolutions and two linear layers, in evaluation mode a fixed function of the pixels."""

    def __init__(self, spec: ImageSpec) -> None:
        super().__init__()
        self.spec = spec
        self.space: Callable[[Tensor], Tensor] | None = None
        if len(spec.classes) < 2:
            raise AtelierError(
                "evaluate.encoder is `classifier`, but the dataset has no labels to train one on. Give its rows labels "
                "of two classes or more, named in the dataset's card."
            )
        self.body = nn.Sequential(
            nn.Conv2d(spec.channels, 32, 4, 2, 1), nn.BatchNorm2d(32), nn.ReLU(),
            nn.Conv2d(32, 64, 4, 2, 1), nn.BatchNorm2d(64), nn.ReLU(),
            nn.Conv2d(64, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten(),
            nn.Dropout(0.3), nn.Linear(64 * 9, FEATURES), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Linear(FEATURES, len(spec.classes))

    def embed(self, images: Images) -> Tensor:
        """Features [B, D] on the CPU that distances are measured in: of the encoder that was handed in, or its own."""
        return self.features(images) if self.space is None else self.space(images.pixels)

    def features(self, images: Images) -> Tensor:
        """Its own features [B, D] on the CPU."""
        return self._in_parts(images, self.body)

    def labels(self, features_BD: Tensor) -> Tensor:
        """The likeliest class of each row [B]."""
        with torch.inference_mode():
            best_B: Tensor = self.head(features_BD.to(self.head.weight.device)).argmax(dim=1).cpu()
        return best_B

    @torch.inference_mode()
    def _in_parts(self, images: Images, network: nn.Module) -> Tensor:
        device = self.head.weight.device
        return torch.cat([network(part.to(device)).float().cpu() for part in torch.split(images.pixels, 256)])


def fit(split: loading.Split, spec: ImageSpec, *, seed: int) -> Classifier:
    """The classifier of a labelled training split: the same split and seed give the same weights on the CPU."""
    torch.manual_seed(loading.seed_of(seed, "classifier"))
    classifier = Classifier(spec).train()
    steps = max(1, EPOCHS * len(split) // BATCH)
    optimizer = torch.optim.AdamW(classifier.parameters(), 2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    rows = loading.batches(split, size=min(BATCH, len(split)), seed=seed, start=0)
    for step, batch in zip(range(steps), rows, strict=False):
        assert isinstance(batch, Images) and batch.labels is not None
        torch.manual_seed(loading.seed_of(seed, "dropout", step))
        loss = F.cross_entropy(classifier.head(classifier.body(batch.pixels)), batch.labels)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
    return classifier.eval()


ENCODER = Classifier
