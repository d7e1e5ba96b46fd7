"""Small real networks as a team would hand them in."""

from pathlib import Path

import torch
from torch import nn


def exported(path: Path, network: nn.Module, *, size: int = 12) -> Path:
    """A program of `torch.export` for grey pictures, any number at once."""
    free = ({0: torch.export.Dim("rows", min=1, max=4096)},)
    torch.export.save(torch.export.export(network, (torch.zeros(4, 1, size, size),), dynamic_shapes=free), path)
    return path


def judge(*, size: int = 12, steepness: float = 1000.0, leaning: float = 0.1) -> nn.Module:
    """Sure of three classes: brighter on the left by so much, brighter than grey, and one that never is."""
    column = torch.linspace(1, -1, size).sign().repeat(size, 1).flatten()
    linear = nn.Linear(size * size, 3)
    linear.weight.data = steepness * torch.stack([column, torch.ones_like(column), torch.zeros_like(column)]) / size**2
    linear.bias.data = torch.tensor([-steepness * leaning, 0.0, -20.0])
    return nn.Sequential(nn.Flatten(), linear, nn.Sigmoid())
