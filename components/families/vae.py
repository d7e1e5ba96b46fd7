"""Variational auto-encoder (Kingma and Welling, 2013, arXiv:1312.6114).

A picture's grey level is the mean of a Bernoulli variable, as is usual on MNIST and its kin. The stride-2 encoder and
its mirror follow the convolutional VAE of arXiv:1606.05579 at half its width and depth; the paper's own networks, of
one hidden layer, are there on request, and so are free bits (arXiv:1606.04934), labels beside what encoder and decoder
read (the conditional VAE of arXiv:1406.5298, M2 with every row labelled), and the importance-weighted bound
(arXiv:1509.00519) and the likeness of reconstructions among the curves.
B batch, Z latent, K classes, S importance samples, C channels, H W sides.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam, Optimizer

from components import contract
from components.contract import Batch, Family, Loss
from components.errors import AtelierError
from components.fidelity import psnr, ssim
from components.layers import normal_like, seeded_normal
from components.modalities.image.batch import ANY, Images, ImageSpec, given_labels, labels, refuse_label


class Config(contract.Config):
    latent_dim: int = Field(16, ge=1)
    width: int = Field(16, ge=1)
    hidden: int = Field(256, ge=1)
    network: Literal["convolutions", "perceptron"] = "convolutions"  # the paper's is the latter, of one hidden layer
    beta: float = Field(1.0, ge=0)  # weight of the divergence, arXiv:1804.03599; 1 is the bound itself
    free_bits: float = Field(0.0, ge=0)  # nats of each latent that cost nothing; the paper tries 0.125 to 2
    conditional: bool = False  # on the labels of the data, which the control `label` then asks for
    lr: float = Field(2e-3, gt=0)  # for runs of minutes: 48 against 51 of FD after one
    report_every: int = Field(0, ge=0)  # steps between readings of the tight bound, PSNR and SSIM; 0 for none
    importance_samples: int = Field(64, ge=1)  # of the tight bound; the paper reports with 5,000, too slow here

    @model_validator(mode="after")
    def _not_contradictory(self) -> "Config":
        if self.free_bits and not self.beta:
            raise ValueError(f"free_bits is {self.free_bits}, but beta is 0: give beta a weight, or free_bits 0")
        return self


class Controls(contract.Controls):
    truncation: float = Field(1.0, ge=0, le=2)  # scale of the latent: below 1 safer, above 1 more varied
    label: str = ANY  # a class by its name, where the model is conditional


class Model(Family[Config, Controls, ImageSpec, Images]):
    modality = "image"
    served = ("decoder",)

    def __init__(self, config: Config, spec: ImageSpec) -> None:
        super().__init__(config, spec)
        if config.conditional and not spec.classes:
            raise AtelierError(
                "conditional is true, but the dataset has no labels to condition on. Set conditional to false, or give "
                "its rows labels, named in the dataset's card."
            )
        classes = len(spec.classes) if config.conditional else 0
        inward, outward, flat = _convolutions(config, spec) if config.network == "convolutions" else _perceptron(spec)
        self.layers_before_labels = len(inward)
        self.encoder = nn.Sequential(
            *inward, nn.Linear(flat + classes, config.hidden), nn.ReLU(),
            nn.Linear(config.hidden, 2 * config.latent_dim),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            nn.Linear(config.latent_dim + classes, config.hidden), nn.ReLU(), nn.Linear(config.hidden, flat), *outward
        )

    def optimizers(self) -> Mapping[str, Optimizer]:
        return {"main": Adam(self.parameters(), self.config.lr)}

    def refuse(self, controls: Controls) -> None:
        if not self.config.conditional and controls.label != ANY:
            raise AtelierError(
                f"the label {controls.label!r} is asked for, but this vae is not conditional. Set conditional to true "
                f"in the candidate's config, or ask for {ANY!r}."
            )
        if self.config.conditional:
            refuse_label(controls.label, self.spec.classes)

    def loss(self, phase: str, batch: Images, *, step: int, generator: torch.Generator) -> Loss:
        if self.config.conditional:
            given_labels(batch, step)
        mean_BZ, log_variance_BZ = self._posterior(batch)
        noise_BZ = normal_like(mean_BZ, mean_BZ.shape, generator)
        latent_BZ = mean_BZ + (0.5 * log_variance_BZ).exp() * noise_BZ
        reconstruction = _bernoulli_nats(self._logits(latent_BZ, batch.labels), batch.pixels)
        divergence = _divergence_nats(mean_BZ, log_variance_BZ)
        parts = {"bound": reconstruction + divergence, "reconstruction": reconstruction, "divergence": divergence}
        if self.config.report_every and (step + 1) % self.config.report_every == 0:
            parts |= self._readings(batch, generator)
        charged = divergence
        if self.config.free_bits:
            charged = _charged_nats(mean_BZ, log_variance_BZ, free=self.config.free_bits)
        return Loss(reconstruction + self.config.beta * charged, parts)

    @torch.no_grad()
    def bound(self, batch: Images, samples: int, generator: torch.Generator) -> Tensor:
        """A bound on -log p(x) of each row [B] in nats by importance weights, arXiv:1509.00519, eq. 8.

        At one sample its mean is the `bound` of training; with more it is tighter, down to -log p(x) itself.
        """
        mean_BZ, log_variance_BZ = self._posterior(batch)
        weights = []
        for _ in range(samples):
            noise_BZ = normal_like(mean_BZ, mean_BZ.shape, generator)
            latent_BZ = mean_BZ + (0.5 * log_variance_BZ).exp() * noise_BZ
            prior_B = 0.5 * (noise_BZ.square() + log_variance_BZ - latent_BZ.square()).sum(dim=1)  # log p(z)/q(z|x)
            logits_BCHW = self._logits(latent_BZ, batch.labels)
            target_BCHW = (batch.pixels + 1) / 2
            nats_BCHW = F.binary_cross_entropy_with_logits(logits_BCHW, target_BCHW, reduction="none")
            weights.append(prior_B - nats_BCHW.flatten(1).sum(dim=1))
        log_weights_SB = torch.stack(weights)
        return -(log_weights_SB.logsumexp(dim=0) - torch.tensor(samples).log())

    @torch.no_grad()
    def reconstruct(self, batch: Images) -> Images:
        """The same pictures by way of their latents' means; a model that was restored to serve has no encoder."""
        if not hasattr(self, "encoder"):
            raise AtelierError(
                "this vae was restored to generate, without its encoder: reconstruct with the one in training, or from "
                "its checkpoint."
            )
        mean_BZ, _ = self._posterior(batch)
        return Images(2 * torch.sigmoid(self._logits(mean_BZ, batch.labels)) - 1, batch.labels)

    def likeness(self, batch: Images) -> dict[str, Tensor]:
        """How near reconstructions are, means over rows: `psnr` in decibels, `ssim` up to 1."""
        again = self.reconstruct(batch).pixels
        return {"psnr": psnr(again, batch.pixels).mean(), "ssim": ssim(again, batch.pixels).mean()}

    def draw(self, seeds: Sequence[int], controls: Sequence[Controls], conditions: Batch | None) -> Images:
        weight = next(self.decoder.parameters())
        scale_B1 = torch.tensor([[control.truncation] for control in controls])
        latent_BZ = scale_B1 * seeded_normal(seeds, self.config.latent_dim)
        asked_B = None
        if self.config.conditional:
            asked_B = labels([control.label for control in controls], seeds, self.spec.classes).to(weight.device)
        return Images(2 * torch.sigmoid(self._logits(latent_BZ.to(weight.device), asked_B)) - 1, asked_B)

    def _posterior(self, batch: Images) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z|x), [B, Z] each."""
        if not self.config.conditional:
            both_B2Z = self.encoder(batch.pixels)
        else:
            seen = self.encoder[: self.layers_before_labels](batch.pixels)
            both_B2Z = self.encoder[self.layers_before_labels :](torch.cat([seen, self._one_hot(batch.labels)], dim=1))
        mean_BZ, log_variance_BZ = both_B2Z.chunk(2, dim=1)
        return mean_BZ, log_variance_BZ

    def _logits(self, latent_BZ: Tensor, labels_B: Tensor | None) -> Tensor:
        """What the decoder makes of latents, and of labels where it is conditional; [B, C, H, W]."""
        if self.config.conditional:
            latent_BZ = torch.cat([latent_BZ, self._one_hot(labels_B)], dim=1)
        logits_BCHW: Tensor = self.decoder(latent_BZ)
        return logits_BCHW

    def _one_hot(self, labels_B: Tensor | None) -> Tensor:
        if labels_B is None:
            raise AtelierError("conditional is true, but a batch has no labels. Label its rows, or set it to false.")
        return (labels_B[:, None] == torch.arange(len(self.spec.classes), device=labels_B.device)).float()

    def _readings(self, batch: Images, generator: torch.Generator) -> dict[str, Tensor]:
        tight_B = self.bound(batch, self.config.importance_samples, generator)
        return {f"bound_{self.config.importance_samples}": tight_B.mean(), **self.likeness(batch)}


def _convolutions(config: Config, spec: ImageSpec) -> tuple[list[nn.Module], list[nn.Module], int]:
    """What comes before the linear layers of the encoder and after those of the decoder, and their width between."""
    if spec.size % 4:
        raise AtelierError(
            f"vae halves a picture twice, so prepare.size must be a multiple of 4, not {spec.size}. Change it, or set "
            "network to perceptron, which takes any size."
        )
    side, width = spec.size // 4, config.width
    inward = [
        nn.Conv2d(spec.channels, width, 4, 2, 1), nn.ReLU(),
        nn.Conv2d(width, 2 * width, 4, 2, 1), nn.ReLU(), nn.Flatten(),
    ]  # fmt: skip
    outward = [
        nn.ReLU(), nn.Unflatten(1, (2 * width, side, side)),
        nn.ConvTranspose2d(2 * width, width, 4, 2, 1), nn.ReLU(),
        nn.ConvTranspose2d(width, spec.channels, 4, 2, 1),
    ]  # fmt: skip
    return inward, outward, 2 * width * side**2


def _perceptron(spec: ImageSpec) -> tuple[list[nn.Module], list[nn.Module], int]:
    shape = (spec.channels, spec.size, spec.size)
    return [_Levels(), nn.Flatten()], [nn.Unflatten(1, shape)], math.prod(shape)


class _Levels(nn.Module):
    """Pixels of [-1, 1] as levels of [0, 1], so that the dark ones move no weight: 29 against 32 of FD."""

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        return (pixels_BCHW + 1) / 2


def _bernoulli_nats(logits_BCHW: Tensor, pixels_BCHW: Tensor) -> Tensor:
    """Mean over rows of -log p(x|z), appendix C.1, for pixels in [-1, 1]."""
    summed = F.binary_cross_entropy_with_logits(logits_BCHW, (pixels_BCHW + 1) / 2, reduction="sum")
    return summed / len(pixels_BCHW)


def _divergence_nats(mean_BZ: Tensor, log_variance_BZ: Tensor) -> Tensor:
    """Mean over rows of KL(q(z|x) || N(0, 1)), appendix B."""
    per_row_B = 0.5 * (mean_BZ.square() + log_variance_BZ.exp() - 1 - log_variance_BZ).sum(dim=1)
    return per_row_B.mean()


def _charged_nats(mean_BZ: Tensor, log_variance_BZ: Tensor, *, free: float) -> Tensor:
    """The divergence with at least `free` nats for each latent's mean over rows, arXiv:1606.04934, eq. 15."""
    per_latent_Z = 0.5 * (mean_BZ.square() + log_variance_BZ.exp() - 1 - log_variance_BZ).mean(dim=0)
    return per_latent_Z.clamp(min=free).sum()
