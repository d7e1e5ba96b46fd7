"""`diffusers`' UNet2DModel and DDPMScheduler in the loop of its training tutorial, drawn with 20 of DPM-Solver++.

The tutorial's U-Net of six levels for 128 pixels has three here, for 28; the cosine goes with the time.
"""

import math
from pathlib import Path
from typing import Any

import arm
import torch
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler, UNet2DModel
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

DRAW_STEPS, NOISE_STEPS = 20, 1000


def train(pixels: Tensor, rows: arm.Rows, settings: dict[str, Any], folder: Path) -> arm.Trained:
    unet = UNet2DModel(
        sample_size=28, in_channels=1, out_channels=1, layers_per_block=settings["layers"],
        block_out_channels=settings["widths"], norm_num_groups=8,
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    noising = DDPMScheduler(num_train_timesteps=NOISE_STEPS)
    optimizer = torch.optim.AdamW(unet.parameters(), lr=settings["lr"])
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / settings["warmup"]) * (1 + math.cos(math.pi * rows.spent)) / 2
    )
    steps = 0
    for (clean,) in DataLoader(TensorDataset(pixels), settings["batch_size"], sampler=rows, drop_last=True):
        noise = torch.randn_like(clean)
        times = torch.randint(0, NOISE_STEPS, (len(clean),))
        loss = F.mse_loss(unet(noising.add_noise(clean, noise, times), times, return_dict=False)[0], noise)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        steps += 1
    return arm.Trained(steps, unet, lambda number: torch.cat([_drawn(unet.eval(), k) for k in _parts(number, 256)]))


def _parts(number: int, most: int) -> list[int]:
    return [min(most, number - start) for start in range(0, number, most)]


@torch.no_grad()
def _drawn(unet: UNet2DModel, number: int) -> Tensor:
    scheduler = DPMSolverMultistepScheduler(num_train_timesteps=NOISE_STEPS)
    scheduler.set_timesteps(DRAW_STEPS)
    sample = torch.randn(number, 1, 28, 28)
    for time in scheduler.timesteps:
        sample = scheduler.step(unet(sample, time, return_dict=False)[0], time, sample).prev_sample
    return sample


if __name__ == "__main__":
    arm.run(train)
