"""The few pieces that families use identically. B batch."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def seeded_normal(seeds: Sequence[int], *shape: int) -> Tensor:
    """Standard normal noise [B, *shape] on the CPU; row i comes from seed i alone."""
    return torch.stack([torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def normal_like(reference: Tensor, shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Standard normal noise of that shape on the reference's device, drawn where the generator lives."""
    return torch.randn(*shape, generator=generator, device=generator.device).to(reference.device)


@torch.no_grad()
def average_into(average: nn.Module, current: nn.Module, *, decay: float) -> None:
    """Move an exponential moving average of weights one step; buffers are copied as they are."""
    ours: list[Tensor] = list(average.parameters())
    theirs: list[Tensor] = list(current.parameters())
    torch._foreach_lerp_(ours, theirs, 1 - decay)
    for mine, other in zip(average.buffers(), current.buffers(), strict=True):
        mine.copy_(other)
