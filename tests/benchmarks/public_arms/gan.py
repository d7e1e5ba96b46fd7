"""`torchgan`'s DCGAN and its trainer, as in its introduction (arXiv:1909.03410).

Its networks make powers of two: the pictures are padded to 32 pixels and cropped again.
"""

from pathlib import Path
from typing import Any

import arm
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

try:
    import torchvision  # noqa: F401  torchgan imports it
except RuntimeError:  # built for CUDA beside a torch that is not: its operators are missing, and torchgan calls none
    for kind in ("nms", "qnms"):
        torch.library.define(f"torchvision::{kind}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

from torchgan.losses import (
    LeastSquaresDiscriminatorLoss,
    LeastSquaresGeneratorLoss,
    MinimaxDiscriminatorLoss,
    MinimaxGeneratorLoss,
)
from torchgan.models import DCGANDiscriminator, DCGANGenerator
from torchgan.trainer import Trainer

LATENT = 100
LOSSES = {
    "minimax": (MinimaxGeneratorLoss, MinimaxDiscriminatorLoss),
    "least squares": (LeastSquaresGeneratorLoss, LeastSquaresDiscriminatorLoss),
}


def train(pixels: Tensor, rows: arm.Rows, settings: dict[str, Any], folder: Path) -> arm.Trained:
    trainer = Trainer(
        _networks(settings),
        [loss() for loss in LOSSES[settings["loss"]]],
        device=torch.device("cpu"), epochs=1, sample_size=64,
        checkpoints=str(folder / "torchgan" / "gan"), recon=str(folder / "torchgan"),
    )  # fmt: skip
    trainer.logger.logger_end_epoch.clear()  # its sheet of samples calls torchvision as older ones took it
    wide = F.pad(pixels, (2, 2, 2, 2), value=-1.0)
    trainer(DataLoader(_Wide(wide), settings["batch_size"], sampler=rows, drop_last=True))
    generator = trainer.generator.eval()
    both = nn.ModuleList([generator, trainer.discriminator])

    @torch.no_grad()
    def draw(number: int) -> Tensor:
        latents = torch.randn(number, LATENT)
        return torch.cat([generator(part) for part in latents.split(256)])[:, :, 2:-2, 2:-2]

    return arm.Trained(trainer.loss_information["discriminator_iters"], both, draw)


def _networks(settings: dict[str, Any]) -> dict[str, Any]:
    optimizer = {"name": torch.optim.Adam, "args": {"lr": settings["lr"], "betas": (0.5, 0.999)}}
    width = {"step_channels": settings["width"], "nonlinearity": nn.LeakyReLU(0.2)}
    return {
        "generator": {
            "name": DCGANGenerator,
            "args": {"encoding_dims": LATENT, "out_channels": 1, "last_nonlinearity": nn.Tanh(), **width},
            "optimizer": optimizer,
        },
        "discriminator": {
            "name": DCGANDiscriminator,
            "args": {"in_channels": 1, "last_nonlinearity": nn.LeakyReLU(0.2), **width},
            "optimizer": optimizer,
        },
    }


class _Wide(torch.utils.data.Dataset[Tensor]):
    def __init__(self, pixels: Tensor) -> None:
        self.pixels = pixels

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, row: int) -> Tensor:
        return self.pixels[row]


if __name__ == "__main__":
    arm.run(train)
