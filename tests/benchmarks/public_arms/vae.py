"""`pythae`'s VAE with its networks for MNIST and its own trainer (arXiv:2206.08309)."""

from pathlib import Path
from typing import Any

import arm
import torch
from pythae.data.datasets import BaseDataset
from pythae.models import VAE, VAEConfig
from pythae.models.nn.benchmarks import mnist
from pythae.samplers import NormalSampler
from pythae.trainers import BaseTrainer, BaseTrainerConfig
from torch import Tensor
from torch.utils.data import DataLoader

NETWORKS = {
    "conv": (mnist.Encoder_Conv_VAE_MNIST, mnist.Decoder_Conv_AE_MNIST),
    "resnet": (mnist.Encoder_ResNet_VAE_MNIST, mnist.Decoder_ResNet_AE_MNIST),
}


def train(pixels: Tensor, rows: arm.Rows, settings: dict[str, Any], folder: Path) -> arm.Trained:
    config = VAEConfig(input_dim=(1, 28, 28), latent_dim=16, reconstruction_loss=settings["loss"])
    if settings["network"] == "mlp":  # what pythae builds where none is given
        model = VAE(config)
    else:
        encoder, decoder = NETWORKS[settings["network"]]
        model = VAE(config, encoder=encoder(config), decoder=decoder(config))
    data = (pixels + 1) / 2
    trainer = BaseTrainer(
        model,
        BaseDataset(data, torch.zeros(len(data))),
        training_config=BaseTrainerConfig(
            output_dir=str(folder / "pythae"), num_epochs=1, learning_rate=settings["lr"], no_cuda=True,
            per_device_train_batch_size=settings["batch_size"],
        ),
    )  # fmt: skip
    trainer.train_loader = DataLoader(  # one epoch as long as the budget
        trainer.train_dataset, settings["batch_size"], sampler=rows, drop_last=True,
        collate_fn=trainer.train_loader.collate_fn,
    )  # fmt: skip
    steps = 0

    def count(*_: object) -> None:
        nonlocal steps
        steps += model.training

    model.register_forward_hook(count)
    trainer.train()
    sampler = NormalSampler(model=model.eval())
    return arm.Trained(
        steps, model, lambda number: sampler.sample(number, batch_size=256, return_gen=True).cpu() * 2 - 1
    )


if __name__ == "__main__":
    arm.run(train)
