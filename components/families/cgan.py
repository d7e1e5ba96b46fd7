"""Class-conditional GAN with a projection discriminator (Miyato and Koyama, 2018, arXiv:1802.05637), the line of BigGAN
(arXiv:1809.11096) at small size.

The generator hears the class and the latent in every batch norm (BigGAN-deep, appendix B); the discriminator has
spectral norm (arXiv:1802.05957) and a hinge loss (eq. 3 and 4 of 1809.11096); self-attention (arXiv:1805.08318) at half
the side on request; Adam with the betas of all of them. Deviations: the networks are DCGAN's for pictures of 28 x 28
rather than residual; the discriminator's features keep their places instead of being summed over them, since small
pictures are centred; the generator has no spectral norm, as in 1802.05637. Served: a moving average of the generator.
B batch, Z latent, E condition, K classes, F features, C channels, H W sides, Q N places that ask and that answer.
"""

import copy
from collections.abc import Mapping, Sequence

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm
from torch.optim import Adam, Optimizer

from components import contract
from components.contract import Batch, Family, Loss, Phase
from components.diffaugment import Change, changed
from components.errors import AtelierError
from components.layers import average_into, normal_like, seeded_normal
from components.modalities.image.batch import ANY, Images, ImageSpec, given_labels, labels, refuse_label


class Config(contract.Config):
    latent_dim: int = Field(64, ge=1)  # the papers' 128 is for a thousand classes
    width: int = Field(16, ge=1)  # the papers' 64 is for GPUs; this trains in minutes on a CPU
    embedding_dim: int = Field(16, ge=1)  # of a class; the papers' 128 is for a thousand
    attention: bool = False
    discriminator_steps: int = Field(1, ge=1)  # updates for each of the generator: 1802.05637 has 5, BigGAN 2
    diff_augment: tuple[Change, ...] = ()  # of what the discriminator sees, for few training rows (2006.10738)
    average_decay: float = Field(0.995, ge=0, lt=1)  # of the generator's updates; 0.9999 outlasts short runs
    lr: float = Field(5e-4, gt=0)  # ten times BigGAN's, for a hundredth of its steps and small batches
    discriminator_lr: float = Field(1e-3, gt=0)  # faster, as BigGAN's is: FD 3.2 after a minute, 4.3 with both at 1e-3
    beta1: float = Field(0.0, ge=0, lt=1)
    beta2: float = Field(0.9, ge=0, lt=1)


class Controls(contract.Controls):
    truncation: float = Field(1.0, ge=0, le=2)  # scale of the latent: below 1 safer, above 1 more varied
    label: str = ANY  # a class by its name


class Model(Family[Config, Controls, ImageSpec, Images]):
    modality = "image"
    served = ("average",)

    def __init__(self, config: Config, spec: ImageSpec) -> None:
        super().__init__(config, spec)
        if spec.size % 4:
            raise AtelierError(
                f"cgan doubles a picture twice, so prepare.size must be a multiple of 4, not {spec.size}"
            )
        if not spec.classes:
            raise AtelierError(
                "cgan is conditional on the label, and the data have no classes. Give the rows labels, or choose a "
                "family that needs none, such as dcgan."
            )
        self.generator = Generator(config, spec)
        self.discriminator = Discriminator(config, spec)
        self.average = copy.deepcopy(self.generator).requires_grad_(False)

    def optimizers(self) -> Mapping[str, Optimizer]:
        config = self.config
        betas = (config.beta1, config.beta2)
        return {
            "generator": Adam(self.generator.parameters(), config.lr, betas),
            "discriminator": Adam(self.discriminator.parameters(), config.discriminator_lr, betas),
        }

    def phases(self) -> Sequence[Phase]:
        return (
            Phase("discriminator", optimizer="discriminator"),
            Phase("generator", optimizer="generator", every=self.config.discriminator_steps),
        )

    def refuse(self, controls: Controls) -> None:
        refuse_label(controls.label, self.spec.classes)

    def loss(self, phase: str, batch: Images, *, step: int, generator: torch.Generator) -> Loss:
        """Generated rows get the labels of the real ones, so that no class is commoner on either side."""
        real, labels_B = batch.pixels, given_labels(batch, step)
        latent_BZ = normal_like(real, (len(real), self.config.latent_dim), generator)
        if phase == "generator":
            fake = changed(self.generator(latent_BZ, labels_B), self.config.diff_augment, generator)
            loss = -self.discriminator(fake, labels_B).mean()
            return Loss(loss, {"loss": loss})
        with torch.no_grad():
            fake = self.generator(latent_BZ, labels_B)
        seen = changed(torch.cat([real, fake]), self.config.diff_augment, generator)
        real_B, fake_B = self.discriminator(seen, labels_B.repeat(2)).chunk(2)
        loss = F.relu(1 - real_B).mean() + F.relu(1 + fake_B).mean()
        accuracy = ((real_B > 0).float().mean() + (fake_B < 0).float().mean()) / 2
        return Loss(loss, {"loss": loss, "accuracy": accuracy})

    def after_step(self, step: int) -> None:
        if step % self.config.discriminator_steps == 0:
            made = step // self.config.discriminator_steps  # updates of the generator before this step's
            average_into(self.average, self.generator, decay=min(self.config.average_decay, (1 + made) / (10 + made)))

    def draw(self, seeds: Sequence[int], controls: Sequence[Controls], conditions: Batch | None) -> Images:
        device = next(self.average.parameters()).device
        scale_B1 = torch.tensor([[control.truncation] for control in controls])
        latent_BZ = scale_B1 * seeded_normal(seeds, self.config.latent_dim)
        labels_B = labels([control.label for control in controls], seeds, self.spec.classes).to(device)
        return Images(self.average(latent_BZ.to(device), labels_B), labels_B)


class Generator(nn.Module):
    """Pictures [B, C, size, size] in [-1, 1] of latents [B, Z] and labels [B]."""

    def __init__(self, config: Config, spec: ImageSpec) -> None:
        super().__init__()
        side, width = spec.size // 4, config.width
        condition = config.embedding_dim + config.latent_dim
        self.embedding = nn.Embedding(len(spec.classes), config.embedding_dim)  # shared by the layers
        self.start = nn.Sequential(
            nn.Linear(condition, 4 * width * side**2, bias=False), nn.Unflatten(1, (4 * width, side, side))
        )
        self.first_norm = ConditionalNorm(4 * width, condition)
        self.first = nn.ConvTranspose2d(4 * width, 2 * width, 4, 2, 1, bias=False)
        self.attention = SelfAttention(2 * width) if config.attention else nn.Identity()
        self.last_norm = ConditionalNorm(2 * width, condition)
        self.last = nn.ConvTranspose2d(2 * width, spec.channels, 4, 2, 1)
        self.apply(_initialise)

    def forward(self, latent_BZ: Tensor, labels_B: Tensor) -> Tensor:
        condition_BE = torch.cat([self.embedding(labels_B), latent_BZ], dim=1)
        hidden_BCHW = self.first(F.relu(self.first_norm(self.start(condition_BE), condition_BE)))
        hidden_BCHW = F.relu(self.last_norm(self.attention(hidden_BCHW), condition_BE))
        pixels_BCHW: Tensor = self.last(hidden_BCHW).tanh()
        return pixels_BCHW


class Discriminator(nn.Module):
    """How real pictures look for their labels [B]: psi(phi(x)) + y V phi(x), eq. 3 of 1802.05637."""

    def __init__(self, config: Config, spec: ImageSpec) -> None:
        super().__init__()
        side, width = spec.size // 4, config.width
        self.features = nn.Sequential(
            nn.Conv2d(spec.channels, 2 * width, 4, 2, 1), nn.LeakyReLU(0.2),
            SelfAttention(2 * width) if config.attention else nn.Identity(),
            nn.Conv2d(2 * width, 4 * width, 4, 2, 1), nn.LeakyReLU(0.2), nn.Flatten(),
        )  # fmt: skip
        self.head = nn.Linear(4 * width * side**2, 1)
        self.embedding = nn.Embedding(len(spec.classes), 4 * width * side**2)
        self.apply(_initialise)
        for layer in [*self.modules()]:
            if isinstance(layer, nn.Conv2d | nn.Linear | nn.Embedding):
                spectral_norm(layer)

    def forward(self, pixels_BCHW: Tensor, labels_B: Tensor) -> Tensor:
        features_BF = self.features(pixels_BCHW)
        projected_B = (self.embedding(labels_B) * features_BF).sum(1)
        judged_B: Tensor = self.head(features_BF).flatten() + projected_B
        return judged_B


class ConditionalNorm(nn.Module):
    """Batch norm whose gains and biases are linear in the condition [B, E]."""

    def __init__(self, channels: int, condition: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.scale = nn.Linear(condition, 2 * channels)

    def forward(self, hidden_BCHW: Tensor, condition_BE: Tensor) -> Tensor:
        gain_BC11, bias_BC11 = self.scale(condition_BE)[:, :, None, None].chunk(2, dim=1)
        return torch.addcmul(bias_BC11, 1 + gain_BC11, self.norm(hidden_BCHW))


class SelfAttention(nn.Module):
    """What each place takes from the others, added at a gain that starts at 0: arXiv:1805.08318, section 3.

    Every second place a side answers, by its neighbourhood's maximum, as in that paper's implementation.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(1, channels // 8)
        self.ask = nn.Conv2d(channels, inner, 1, bias=False)
        self.answer = nn.Conv2d(channels, inner, 1, bias=False)
        self.value = nn.Conv2d(channels, channels // 2, 1, bias=False)
        self.out = nn.Conv2d(channels // 2, channels, 1, bias=False)
        self.gain = nn.Parameter(torch.zeros(()))

    def forward(self, hidden_BCHW: Tensor) -> Tensor:
        ask_BQC = self.ask(hidden_BCHW).flatten(2).transpose(1, 2)
        answer_BCN = F.max_pool2d(self.answer(hidden_BCHW), 2).flatten(2)
        value_BCN = F.max_pool2d(self.value(hidden_BCHW), 2).flatten(2)
        share_BQN = (ask_BQC @ answer_BCN).softmax(dim=2)
        taken_BCQ = value_BCN @ share_BQN.transpose(1, 2)
        mixed_BCHW: Tensor = self.out(taken_BCQ.unflatten(2, hidden_BCHW.shape[2:]))
        return hidden_BCHW + self.gain * mixed_BCHW


def _initialise(layer: nn.Module) -> None:
    """Orthogonal weights, as BigGAN; the class and the latent move the norms little at first."""
    if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d | nn.Embedding):
        nn.init.orthogonal_(layer.weight)
    if isinstance(layer, ConditionalNorm):
        nn.init.normal_(layer.scale.weight, 0.0, 0.02)
        nn.init.zeros_(layer.scale.bias)
